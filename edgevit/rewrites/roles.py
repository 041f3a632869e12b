"""What some exact rewrites act on and mean for conditioning, by their names; asking needs no torch."""

from __future__ import annotations

# Of any model's graph; the others act on the modules of a plain ViT. Trimming does both: where a graph is
# conditioned for int8, or isn't ONNX, the module is trimmed.
ON_GRAPHS = (
    "split-strides",
    "trim-tokens",
    "pad-heads",
    "pad-tokens",
    "softmax-by-norm",
    "token-rows",
    "fuse-activations",
    "split-moves",
)

# Of any graph's residual streams and attentions, for int8 alone, and only where held-out images say that it helps.
FOR_INT8 = ("condition-graph",)

# Conditioning scales q and k, which only the folded attention scale leaves room for; not every compiler takes it.
NEEDED_TO_CONDITION = frozenset({"fold-attention-scale"})

# In int8 their squares need rows whose large values a rotation has spread. Where only cost is asked for, no
# images are given and nothing is lost.
NEED_CONDITIONING = frozenset({"norms-by-exponentials"})

# Ways to write a model as a graph, in the order in which they are taken; the first is of a model that is one. A
# compiler may break what one of them spells and take another.
SPELLINGS = ("the graph as given", "torch's trace", "the trace of torch's program", "torch's newer exporter")


def missing_to_condition(rewrites: list[str]) -> list[str]:
    """Rewrites that conditioning needs and that are not among these."""
    return sorted(NEEDED_TO_CONDITION - set(rewrites))
