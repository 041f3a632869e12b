"""The precision plan: which numbers a compiled model may use where, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class PrecisionPlan:
    """What a backend is asked to realise.

    `precision` is "float" or "int8". `algorithm` names the vendor's range estimator and `litert_recipe`
    LiteRT's quantization recipe, both used where edgevit gives no ranges of its own. `sixteen_bit` names
    tensors kept at 16 bits, `ranges` gives (minimum, maximum) per tensor.
    """

    precision: str = "float"
    algorithm: str = "normal"
    litert_recipe: str = "dynamic_wi8_afp32"
    sixteen_bit: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def quantized(self) -> bool:
        """Whether any tensor is to be int8."""
        return self.precision != "float"

    def to_json(self) -> dict[str, Any]:
        """Plain values, the key of the compile stage among others."""
        return asdict(self)
