"""Int8 for any model's graph: which tensors an NPU stores, what rounding each costs, which must stay in 16 bits."""
