"""What realises a precision plan on a target: one module a backend, the same four members each."""
