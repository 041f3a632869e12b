"""The number types that a whole artefact can be in, by the names that users type."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """One number type.

    `quantized`: ranges are found on calibration images and a precision plan may keep tensors in 16 bits. Below
    `min_agreement` with the float model (0..1) something is broken, not merely coarse.
    """

    quantized: bool
    min_agreement: float


FLOAT, DEFAULT = "float", "int8"
PRECISIONS = {
    FLOAT: Precision(quantized=False, min_agreement=0.9),
    "int8": Precision(quantized=True, min_agreement=0.5),
}


def quantized(name: str) -> bool:
    """Whether a precision is quantized."""
    return PRECISIONS[name].quantized


def known(name: str) -> str:
    """The name itself. Raises ValueError, with the names there are."""
    if name not in PRECISIONS:
        raise ValueError(f"is none of {', '.join(PRECISIONS)}")
    return name
