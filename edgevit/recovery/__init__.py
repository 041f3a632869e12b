"""Label-free recovery of a smaller model from the float model it came from."""

from edgevit.recovery.distill import Recovered, recover

__all__ = ["Recovered", "recover"]
