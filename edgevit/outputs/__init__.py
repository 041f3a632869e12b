"""What a model gives: named outputs, each of a kind, and the one place that knows what a kind means."""
