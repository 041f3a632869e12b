"""Lossy changes that make a model smaller: input size, attention heads, MLP neurons, and what pays for them."""
