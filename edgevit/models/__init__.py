"""From a name and weights to a classifier ready to convert."""

from edgevit.models.loading import load_model
from edgevit.models.model import LoadedModel

__all__ = ["LoadedModel", "load_model"]
