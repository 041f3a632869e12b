"""Which tensors a compiler stores: where int8 rounds, and where it does not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from edgevit.quantize.tensor_names import kind_of, sibling


@dataclass(frozen=True)
class Fusion:
    """What a compiler computes in one operation while all of it is int8, by kinds of tensors.

    `into`: a tensor -> the operation of the same block that the one making it is fused with; its value is rounded
    once, after that operation, and on its own only where that operation is in 16 bits. `inside`: a tensor within an
    operation -> the tensor that names the operation; it is rounded unless the operation is in 16 bits.
    """

    into: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, str] = field(default_factory=dict)

    def rounded_when_made(self, name: str, sixteen_bit: Collection[str]) -> bool:
        """Whether the operation that makes a tensor stores it as int8."""
        kind = kind_of(name)
        if name in sixteen_bit or kind in self.inside and sibling(name, self.inside[kind]) in sixteen_bit:
            return False
        if kind in self.into:
            return sibling(name, self.into[kind]) in sixteen_bit
        return True


STORES_EVERYTHING = Fusion()


def rounded_when_read(name: str, reader: str, sixteen_bit: Collection[str]) -> bool:
    """Whether a 16-bit tensor is converted to int8 for an operation that reads it."""
    return name in sixteen_bit and reader not in sixteen_bit
