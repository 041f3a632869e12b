"""Many conversions of one question: which model, how small, on which board. `sweep` is the entry point."""
