"""Which exact rewrites there are, and the proof that each kept the function.

An exact rewrite is a plain function `(model, npu) -> RewriteResult` that never changes the module it is given. Its
promise, the same outputs to float rounding, is verified on real inputs every time it is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from edgevit.errors import InputError, ParityError
from edgevit.rewrites.centring import norms_without_mean
from edgevit.rewrites.exponential_norms import norms_by_exponentials
from edgevit.rewrites.folds import fold_attention_scale, fold_layer_scale, fold_norms
from edgevit.rewrites.last_block import trim_last_block
from edgevit.rewrites.result import RewriteRecord, RewriteResult
from edgevit.rewrites.roles import ON_GRAPHS
from edgevit.targets.profiles import Npu

BATCH = 16


@dataclass(frozen=True)
class ExactRewrite:
    """A rewrite that promises the same function, and how far float rounding may move it.

    `tolerance` bounds the largest difference of two outputs, relative to the largest output (at least 1).
    With `reads_images` it is exact for what those images cover, and is called with them: (model, npu, inputs).
    """

    apply: Callable[..., RewriteResult]
    tolerance: float = 1e-5
    reads_images: bool = False


# In the order in which they are applied.
EXACT: dict[str, ExactRewrite] = {
    "fold-layer-scale": ExactRewrite(fold_layer_scale),
    "fold-norms": ExactRewrite(fold_norms),
    "fold-attention-scale": ExactRewrite(fold_attention_scale),
    "trim-tokens": ExactRewrite(trim_last_block),
    "norms-by-exponentials": ExactRewrite(norms_by_exponentials, tolerance=1e-4, reads_images=True),
    "norms-without-mean": ExactRewrite(norms_without_mean, tolerance=1e-4),
}


def apply_rewrites(
    module: nn.Module, names: Sequence[str], inputs: torch.Tensor, *, npu: Npu | None = None
) -> tuple[nn.Module, list[RewriteRecord]]:
    """Apply exact rewrites in their fixed order, proving each on `inputs` [n, C, H, W], normalised float32.

    Those that act on graphs alone are passed over. The module given is not changed.

    Raises InputError for an unknown name or a module that isn't canonical,
    ParityError when a rewrite changed the outputs.
    """
    unknown = sorted(set(names) - {*EXACT, *ON_GRAPHS})
    if unknown:
        raise InputError(
            f"unknown rewrite {unknown[0]!r}",
            "no exact rewrite has that name",
            f"Choose from {', '.join(EXACT)}",
        )
    records = []
    for name, rewrite in EXACT.items():
        if name not in names:
            continue
        images = (inputs,) if rewrite.reads_images else ()
        result = rewrite.apply(module, npu, *images)
        difference = prove(name, module, result.module, inputs, rewrite.tolerance) if result.changed else None
        records.append(RewriteRecord(name, result.changed, result.what, difference))
        module = result.module
    return module, records


def prove(name: str, before: nn.Module, after: nn.Module, inputs: torch.Tensor, tolerance: float) -> float:
    """The largest difference of two modules' outputs on `inputs`.

    Raises ParityError naming the rewrite when it exceeds `tolerance` times the largest output (at least 1),
    or isn't a number.
    """
    expected, found = outputs(before, inputs), outputs(after, inputs)
    if expected.shape != found.shape:
        raise ParityError(
            f"{name} changed the outputs",
            f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}",
            FIX,
        )
    difference = float((expected - found).abs().max())
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise ParityError(
            f"{name} changed the outputs",
            f"an output moved by {difference:.2g}, more than {allowed:.2g}",
            FIX,
        )
    return difference


FIX = "Leave this rewrite out and report the model"


@torch.inference_mode()
def outputs(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Outputs on all inputs, computed in batches."""
    return torch.cat([module(batch) for batch in torch.split(inputs, BATCH)])
