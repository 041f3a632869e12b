"""Label-free recovery of a smaller model from the float model it came from."""
