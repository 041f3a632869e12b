"""Images of the user's: found, hashed, decoded, resized and cropped as the model was trained."""

from edgevit.images.pixels import write_pixels
from edgevit.images.sets import ImageSet, read_image_set, refuse_overlap

__all__ = ["ImageSet", "read_image_set", "refuse_overlap", "write_pixels"]
