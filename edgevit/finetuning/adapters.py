"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) in a model's blocks, by the peft library."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from torch import nn

from edgevit.errors import InputError

SCALE = 2  # alpha over rank


def with_adapters(module: nn.Module, blocks: Sequence[nn.Module], classifier: str, rank: int) -> nn.Module:
    """The module with an adapter beside each linear layer of `blocks`; only those and the classifier learn."""
    import peft

    config = peft.LoraConfig(
        r=rank, lora_alpha=SCALE * rank, target_modules=targets_of(module, blocks, classifier, rank)
    )
    changed: nn.Module = peft.inject_adapter_in_model(config, module)
    changed.get_submodule(classifier).requires_grad_(True)
    return changed


def targets_of(module: nn.Module, blocks: Sequence[nn.Module], classifier: str, rank: int) -> list[str]:
    """The paths of the linear layers that adapters stand beside: to be said before any work.

    Raises InputError where peft is not installed, or the blocks have no linear layers.
    """
    if importlib.util.find_spec("peft") is None:
        raise InputError(
            f"cannot use --lora {rank}", "it needs the package peft", 'Run "pip install edgevit[finetune]"'
        )
    inside = {id(each) for block in blocks for each in block.modules()}
    # Attention of torch's own reads its projection's weights itself: an adapter beside them would not be seen.
    hidden = {
        id(each)
        for part in module.modules()
        if isinstance(part, nn.MultiheadAttention)
        for each in part.modules()
    }
    targets = [
        path
        for path, each in module.named_modules()
        if type(each) is nn.Linear and path != classifier and id(each) in inside - hidden
    ]
    if not targets:
        raise InputError(
            f"cannot use --lora {rank}",
            "the model has no linear layers beside which adapters could be put",
            "Use --freeze none, or a number of blocks",
        )
    return targets


def merged(module: nn.Module) -> nn.Module:
    """The module with every adapter added to the layer that it stands beside: the layers it had before."""
    from peft.tuners.lora import LoraLayer

    for path, each in list(module.named_modules()):
        if isinstance(each, LoraLayer):
            layer: Any = each
            layer.merge(safe_merge=True)
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, layer.get_base_layer())
    return module
