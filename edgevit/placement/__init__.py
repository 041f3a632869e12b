"""Where a compiled model's layers run and what the vendor's compiler says they cost."""
