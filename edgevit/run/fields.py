"""What fields of a run's files may hold: plain file names, finite numbers, whole measurements."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edgevit.metrics.classification import Accuracy
from edgevit.outputs.kinds import KINDS


def plain_name(name: str) -> str:
    """A file's own name: it never leads out of the folder it is in. Raises ValueError."""
    if (
        not name
        or name in (".", "..")
        or "/" in name
        or "\0" in name
        or len(name.encode(errors="replace")) > 255
    ):
        raise ValueError("is not the plain name of a file")
    return name


def finite(number: float) -> float:
    """A number that can be drawn and compared. Raises ValueError."""
    if not math.isfinite(number):
        raise ValueError("is not a finite number")
    return number


def whole(accuracy: Accuracy) -> Accuracy:
    """An accuracy with finite figures, and with all of those that need labels or none. Raises ValueError."""
    values = accuracy.to_json()
    numbers = [each for each in values.values() if isinstance(each, int | float)]
    if accuracy.n < 1 or accuracy.kind not in KINDS or not all(map(math.isfinite, numbers)):
        raise ValueError("is not a measurement")
    if (
        len({values[name] is None for name in NEED_LABELS}) > 1
        or len({values[name] is None for name in LOSS}) > 1
    ):
        raise ValueError("has only some of the figures that need labels")
    lost, won = accuracy.lost or 0, accuracy.won or 0
    if lost < 0 or won < 0 or lost + won > accuracy.n:
        raise ValueError("counts more changes than images")
    return accuracy


NEED_LABELS = (
    "top1",
    "top5",
    "reference_top1",
    "reference_top5",
    "lost",
    "won",
)
LOSS = ("drop_points", "drop_low", "drop_high")
Measured = Annotated[Accuracy, AfterValidator(whole)]
FileName = Annotated[str, AfterValidator(plain_name)]
Real = Annotated[float, AfterValidator(finite)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Record(BaseModel):
    """Every field is checked; unknown ones are kept as they are, for newer writers."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", ser_json_inf_nan="constants")


def first_problem(error: ValidationError) -> str:
    """Where the first wrong value is, and what is wrong with it."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])[:120]
    return f"{where}: {first['msg'].lower().removeprefix('value error, ')}"
