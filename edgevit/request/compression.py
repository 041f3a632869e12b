"""How much smaller the user wants the model: input size, attention heads, MLP neurons, and recovery."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgevit.errors import InputError
from edgevit.images.preprocessing_request import sides_in

Size = tuple[int, int]
Auto = Literal["auto"]
Amount = int | float | Auto

AUTO: Auto = "auto"
RECOVER_MINUTES = 10.0
OPTIONS = ("resolution", "prune_heads", "prune_mlp", "recover", "recover_images", "recover_minutes")


@dataclass(frozen=True)
class CompressionRequest:
    """Lossy steps asked for, in the order in which they are done; None: not asked for.

    An integer amount is a count, a float a share of all; "auto" is the most that a predicted drop allows.
    """

    resolution: Size | Auto | None = None
    heads: Amount | None = None
    neurons: Amount | None = None
    recover: bool = False
    recover_images: Path | None = None
    recover_minutes: float = RECOVER_MINUTES

    @property
    def any(self) -> bool:
        """Whether anything was asked for."""
        return self.resolution is not None or self.pruned

    @property
    def pruned(self) -> bool:
        """Whether heads or neurons are to go."""
        return self.heads is not None or self.neurons is not None

    @property
    def automatic(self) -> int:
        """How many amounts are left to edgevit."""
        return (self.resolution, self.heads, self.neurons).count(AUTO)

    def to_json(self) -> dict[str, Any] | None:
        """Plain values for the manifest; None where nothing was asked for."""
        if not self.any:
            return None
        images = None if self.recover_images is None else str(self.recover_images)
        return {**asdict(self), "recover_images": images}


def parse_compression(options: dict[str, Any]) -> CompressionRequest:
    """The request among command line options, which are taken out of `options`. Raises InputError."""
    given = {name: options.pop(name) for name in OPTIONS if name in options}
    images, minutes = given.get("recover_images"), given.get("recover_minutes")
    request = CompressionRequest(
        resolution=parse_resolution(given.get("resolution")),
        heads=parse_amount("--prune-heads", given.get("prune_heads"), "6 or 0.15"),
        neurons=parse_amount("--prune-mlp", given.get("prune_mlp"), "0.1 or 256"),
        recover=bool(given.get("recover")),
        recover_images=images,
        recover_minutes=RECOVER_MINUTES if minutes is None else minutes,
    )
    if not request.recover and (images is not None or minutes is not None):
        option = "--recover-images" if images is not None else "--recover-minutes"
        raise InputError(f"{option} without --recover", "nothing is recovered", "Add --recover")
    if request.recover and not request.any:
        raise InputError(
            "cannot recover",
            "nothing was made smaller",
            "Add --resolution, --prune-heads or --prune-mlp, or leave --recover out",
        )
    return request


def parse_resolution(text: str | None) -> Size | Auto | None:
    """ "192", "192x224" (height, width) or "auto". Raises InputError."""
    if text is None or text == AUTO:
        return AUTO if text else None
    size = sides_in(text)
    if size is None or not size[0]:
        raise InputError(
            f"cannot change the resolution to {text!r}",
            "it is not a size in pixels",
            "Use 192, 192x224 (height x width) or auto",
        )
    return size


def parse_amount(option: str, text: str | None, example: str) -> Amount | None:
    """A count ("6"), a share ("0.15") or "auto". Raises InputError."""
    if text is None or text == AUTO:
        return AUTO if text else None
    if re.fullmatch(r"\d{1,9}", text):
        return int(text)
    if re.fullmatch(r"0?\.\d+", text):
        return float(text)
    raise InputError(
        f"{option} {text} is not an amount", "it takes a count, a share below 1 or auto", f"Use {example}"
    )
