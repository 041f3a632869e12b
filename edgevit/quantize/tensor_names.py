"""Names of the tensors that an NPU stores of a ViT, as plans and reports write them. No torch here.

"blocks.3.residual1" is of the kind "residual1". A tensor is named after the operation that makes it: "proj" is the
projection's output before the addition that gives "residual1".
"""

from __future__ import annotations

# What each block shows, in the order in which it is computed.
BLOCK_TAPS = (
    "norm1", "q", "k", "v", "scores", "softmax", "attention", "proj", "residual1",
    "norm2", "fc1", "gelu", "fc2", "residual2",
)  # fmt: skip
OUTPUT_TAP = "logits"  # the name that plans know it by, whatever it holds
STREAM_TAPS = ("embed", "residual1", "residual2")


def tap_names(blocks: int) -> list[str]:
    """Every tap of a ViT with so many blocks, in order."""
    inside = [f"blocks.{index}.{name}" for index in range(blocks) for name in BLOCK_TAPS]
    return ["input", "patch", "embed", *inside, "norm", OUTPUT_TAP]


def kind_of(name: str) -> str:
    """A tap's name without its block: "residual1" of "blocks.3.residual1"."""
    return name.rsplit(".", 1)[-1]


def sibling(name: str, kind: str) -> str:
    """Another tap of the same block."""
    return f"{name.rsplit('.', 1)[0]}.{kind}"
