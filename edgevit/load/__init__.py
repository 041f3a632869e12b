"""From a name and weights to a classifier ready to convert."""

from edgevit.load.loading import load_model
from edgevit.load.model import LoadedModel

__all__ = ["LoadedModel", "load_model"]
