"""How a state dict differs from the one a model expects, in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from edgevit.errors import InputError

SHOWN = 3
Weights = Mapping[str, torch.Tensor]


def differ(expected: Weights, given: Weights) -> bool:
    """Whether any key, shape or kind of number (float or not) differs."""
    return expected.keys() != given.keys() or any(
        expected[k].shape != given[k].shape or other_kind(expected[k], given[k]) for k in expected
    )


def other_kind(expected: torch.Tensor, given: torch.Tensor) -> bool:
    """Whether one holds floats and the other doesn't."""
    return expected.is_floating_point() != given.is_floating_point()


def refuse(name: str, path: Path, expected: Weights, given: Weights, *, fix: str | None = None) -> None:
    """Raises InputError that counts and shows the first missing, unexpected and misshapen tensors.

    `fix` is what the caller knows to be the remedy; without it, what the shapes say.
    """
    if not differ(expected, given):
        return
    missing = [key for key in expected if key not in given]
    extra = [key for key in given if key not in expected]
    shapes = [
        f"{key} is {list(given[key].shape)} where {list(expected[key].shape)} is expected"
        for key in expected
        if key in given and given[key].shape != expected[key].shape
    ]
    kinds = [
        f"{key} is {str(given[key].dtype).removeprefix('torch.')}"
        for key in expected
        if key in given and other_kind(expected[key], given[key])
    ]
    if kinds and not shapes and not missing and not extra:
        fix = "Give the trained float weights: edgevit quantizes itself"
    parts = [
        listed("of another shape", shapes),
        listed("of another kind of number", kinds),
        listed("missing", missing),
        listed("unexpected", extra),
    ]
    hint = another_model(expected, given)
    raise InputError(
        f"cannot load {path} into {name}",
        "; ".join(part for part in parts if part),
        fix
        or (
            f"The weights are of another model: {hint}"
            if hint
            else "Name the model these weights were saved from"
        ),
    )


def listed(kind: str, found: list[str]) -> str:
    """ "2 missing (a, b)", the first few shown."""
    if not found:
        return ""
    shown = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
    return f"{len(found)} {kind} ({shown})"


def another_model(expected: Weights, given: Weights) -> str:
    """What tells the two models apart, in the terms a model is named by; empty where nothing is clear."""
    wanted, found = traits(expected), traits(given)
    if not found and "patch_embed.proj.weight" in expected:
        return f"they don't look like a ViT (the first tensor is {next(iter(given))})"
    both = [trait for trait in wanted if trait in found and wanted[trait] != found[trait]]
    return ", ".join(f"{trait} {found[trait]} where it has {wanted[trait]}" for trait in both)


def traits(weights: Weights) -> dict[str, str]:
    """Embedding width, depth, patch and image size of a ViT's state dict in timm's layout."""
    found: dict[str, str] = {}
    patch = weights.get("patch_embed.proj.weight")
    blocks = {match[0] for key in weights if (match := re.match(r"blocks\.\d+\.", key))}
    if patch is None or patch.ndim != 4 or not blocks:
        return found
    found["embed dim"] = str(patch.shape[0])
    found["depth"] = str(len(blocks))
    found["patch size"] = str(patch.shape[2])
    found["input channels"] = str(patch.shape[1])
    position = weights.get("pos_embed")
    if position is not None and position.ndim == 3:
        side = math.isqrt(position.shape[1])
        found["image size"] = str(side * int(patch.shape[2]))
    return found
