"""The layer that gives a model's outputs, whatever the model is called; and a new one in its place."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing

CLOSE = 1e-5


def classifier_of(
    name: str, module: nn.Module, preprocessing: Preprocessing, purpose: str = "fine-tune"
) -> str:
    """The path of the linear layer whose output is the model's output.

    Found by running the model once. Raises InputError where no single linear layer gives the outputs: two heads
    that are averaged, a convolution, something behind the last layer.
    """
    seen: dict[str, torch.Tensor] = {}

    def watch(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            seen[path] = output.detach()

        return hook

    hooks = [
        each.register_forward_hook(watch(path))
        for path, each in module.named_modules()
        if isinstance(each, nn.Linear)
    ]
    try:
        generator = torch.Generator().manual_seed(0)
        shape = (1, len(preprocessing.mean), *preprocessing.size)
        with torch.no_grad():
            output = module(torch.randn(shape, generator=generator))
    finally:
        for hook in hooks:
            hook.remove()
    last = [
        path
        for path, value in seen.items()
        if value.shape == output.shape and torch.allclose(value, output, atol=CLOSE)
    ]
    if not last:
        raise InputError(
            f"cannot {purpose} {name}",
            "its output is not that of one linear layer, so there is none to take away or to replace",
            "Name a model whose last layer is an nn.Linear",
        )
    return last[-1]


def with_classes(module: nn.Module, path: str, classes: int) -> nn.Module:
    """A copy of the module with a new linear layer of so many outputs at `path`, zero until it is trained."""
    changed = copy.deepcopy(module)
    parent, _, name = path.rpartition(".")
    owner = changed.get_submodule(parent)
    old = changed.get_submodule(path)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, classes)
    nn.init.zeros_(new.weight)
    nn.init.zeros_(new.bias)
    setattr(owner, name, new)
    if isinstance(getattr(changed, "num_classes", None), int):
        changed.num_classes = classes  # type: ignore[assignment]
    return changed


class Trunk:
    """A module up to its classifier: gives what the classifier would read, [n, width]."""

    def __init__(self, module: nn.Module, path: str) -> None:
        self.module, self.layer = module, module.get_submodule(path)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        read: list[torch.Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].detach()))
        try:
            with torch.no_grad():
                self.module(images)
        finally:
            hook.remove()
        return read[0].flatten(0, -2)
