"""How the user says images are to be prepared: options of the command line, or a file."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgevit.errors import InputError
from edgevit.images.labels import lines_of
from edgevit.images.pixels import FILTERS

Numbers = tuple[float, ...]
Size = tuple[int, int]

CHANNELS = ("RGB", "BGR", "L")
MODES = ("center", "squash", "border")
OPTIONS = ("mean", "std", "input_size", "crop", "interpolation", "channels", "preprocessing", "classes")
MAX_CLASSES = 2**20


@dataclass(frozen=True)
class PreprocessingRequest:
    """What the user says of a model's input; None: what the model itself says.

    `mean` and `std` are in units of 0..1, one number for all channels or one each; `size` is (height, width) in
    pixels, `crop_pct` and `crop_mode` as in Preprocessing. `described_in` names a file or torchvision's weights,
    whose values the others replace. `classes` are the classes' names in the order of the outputs.
    """

    mean: Numbers | None = None
    std: Numbers | None = None
    size: Size | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    channels: str | None = None
    described_in: str | None = None
    classes: tuple[str, ...] | None = None

    @property
    def options(self) -> list[str]:
        """The options that say something of the pixels, as they are typed."""
        crop = self.crop_mode is not None or self.crop_pct is not None
        said = {
            "--preprocessing": self.described_in,
            "--mean": self.mean,
            "--std": self.std,
            "--input-size": self.size,
            "--crop": True if crop else None,
            "--interpolation": self.interpolation,
            "--channels": self.channels,
        }
        return [name for name, value in said.items() if value is not None]

    @property
    def any(self) -> bool:
        """Whether anything was said."""
        return self != PreprocessingRequest()

    def to_json(self) -> dict[str, Any] | None:
        """Plain values for the manifest; None where nothing was said."""
        return {key: value for key, value in asdict(self).items() if value is not None} if self.any else None


def parse_preprocessing(options: dict[str, Any]) -> PreprocessingRequest:
    """The request among command line options, which are taken out of `options`. Raises InputError."""
    given = {name: value for name in OPTIONS if (value := options.pop(name, None)) is not None}
    crop_mode, crop_pct = parse_crop(given.get("crop"))
    interpolation = given.get("interpolation")
    if interpolation is not None and interpolation not in FILTERS:
        raise InputError(
            f"--interpolation {interpolation} is not known", "no such filter", f"Use {', '.join(FILTERS)}"
        )
    channels = given.get("channels")
    if channels not in (None, *CHANNELS):
        raise InputError(f"--channels {channels} is not known", "no such order", f"Use {', '.join(CHANNELS)}")
    return PreprocessingRequest(
        mean=parse_numbers("--mean", given.get("mean"), least=0.0),
        std=parse_numbers("--std", given.get("std"), least=1e-6),
        size=parse_size(given.get("input_size")),
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        interpolation=interpolation,
        channels=channels,
        described_in=given.get("preprocessing"),
        classes=read_classes(Path(given["classes"])) if "classes" in given else None,
    )


def parse_numbers(option: str, text: Any, *, least: float) -> Numbers | None:
    """ "0.5" or "0.485,0.456,0.406" in units of 0..1. Raises InputError."""
    if text is None:
        return None
    try:
        parts = (
            [text] if isinstance(text, int | float) else text.split(",") if isinstance(text, str) else text
        )
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    what = f"{option} {text} can't be used"
    example = f"Use {option} 0.5, or one number for each channel: {option} 0.485,0.456,0.406"
    if not numbers or not all(math.isfinite(each) for each in numbers):
        raise InputError(what, "it is not numbers with commas between them", example)
    if len(numbers) not in (1, 3):
        raise InputError(what, f"it has {len(numbers)} numbers", example)
    if max(numbers) > 1 and max(numbers) <= 255 and min(numbers) > 1:
        scaled = ",".join(f"{each / 255:.4g}" for each in numbers)
        raise InputError(
            what, "it looks like units of 0..255, and is read in units of 0..1", f"Use {option} {scaled}"
        )
    if not least <= min(numbers) or max(numbers) > 1:
        raise InputError(what, f"it is not within {'above 0' if least else '0'} to 1", example)
    return numbers


def parse_size(text: Any) -> Size | None:
    """ "224" or "192x224" (height x width), a number, or a pair. Raises InputError."""
    if text is None:
        return None
    given = "x".join(str(each) for each in text) if isinstance(text, tuple | list) else str(text)
    size = sides_in(given)
    if size is None or not all(size):
        raise InputError(
            f"--input-size {given} can't be used",
            "it is not a size in pixels",
            "Use 224, or 192x224 (height x width)",
        )
    return size


def sides_in(text: str) -> Size | None:
    """(height, width) of "224" or "192x224"; None: it is neither."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    return (int(found[1]), int(found[2] or found[1])) if found else None


def parse_crop(text: Any) -> tuple[str | None, float | None]:
    """(mode, share) of "0.875", "none", "squash" or "border". Raises InputError.

    A share is of the shorter side that is kept, timm's crop_pct; "none" keeps all of it.
    """
    if text is None:
        return None, None
    given = str(text)
    if given == "none":
        return "center", 1.0
    if given in MODES[1:]:
        return given, None
    try:
        share = float(given)
    except ValueError:
        share = math.nan
    if not 0.05 <= share <= 1:
        raise InputError(
            f"--crop {given} can't be used",
            "it is no share of the shorter side and no way to fit a picture",
            "Use a share such as 0.875, none (all of the shorter side), squash (ignore the aspect ratio) or border",
        )
    return "center", share


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line, in the order of the model's outputs. Raises InputError."""
    what = f"cannot read the classes in {path}"
    try:
        names = lines_of(path, what)
    except UnicodeDecodeError:
        raise InputError(what, "it is not text in UTF-8", "Give a text file with one name a line") from None
    if not names:
        raise InputError(what, "it has no names", "Give a text file with one name a line")
    if len(names) > MAX_CLASSES:
        raise InputError(what, f"it has {len(names)} lines", "Give a text file with one name a line")
    for number, name in enumerate(names, start=1):
        if not name:
            raise InputError(
                what, f"line {number} is empty", "Give every output a name: they go by their order"
            )
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InputError(what, f"{twice!r} stands there twice", "Give every output a name of its own")
    return names
