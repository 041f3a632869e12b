"""The little that rknn-toolkit2 uses of torch when it builds from ONNX, on numpy, so that it needs no torch.

Its fusion rules follow where elements go through reshapes, splits and joins: integers in order, moved about.
What isn't here fails, and says its name in the log: the toolkit reports such a rule as broken and edgevit builds
without it and says so, so that nothing is computed otherwise than torch would.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

Function = Callable[..., Any]
MISSING = "edgevit: no torch here has"  # what the parent looks for in the log


class Tensor:
    """Elements that are moved about, never computed with."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its dimensions."""
        return self.values.shape

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in another shape, given as numbers or as one sequence."""
        return Tensor(self.values.reshape(*shape))

    def tolist(self) -> Any:
        """The elements as nested lists."""
        return self.values.tolist()

    def __getattr__(self, name: str) -> Any:
        raise missing(f"Tensor.{name}")


def arange(end: int) -> Tensor:
    """Integers from 0 up to `end`."""
    return Tensor(np.arange(end, dtype=np.int64))


def split(tensor: Tensor, sizes: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces along a dimension: of one size, the last one smaller if it must, or of sizes that fill it."""
    whole = tensor.values.shape[dim]
    if isinstance(sizes, int):
        borders = list(range(sizes, whole, sizes))
    else:
        if sum(sizes) != whole:
            raise ValueError(f"sizes {list(sizes)} don't fill a dimension of {whole}")
        borders = list(np.cumsum(sizes)[:-1])
    return tuple(Tensor(piece) for piece in np.split(tensor.values, borders, axis=dim))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after another along a dimension."""
    return Tensor(np.concatenate([each.values for each in tensors], axis=dim))


def no_grad() -> Function:
    """Decorates functions, which are only defined here: they train, with a torch that isn't here."""
    return lambda function: function


class Module:
    """What the toolkit derives its layers from when it learns rounding, which edgevit doesn't ask for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise missing("nn.Module")


def missing(name: str) -> AttributeError:
    """The error for what isn't here; printed, because the toolkit shortens errors."""
    print(f"{MISSING} {name}", flush=True)
    return AttributeError(f"edgevit's stand-in for torch has no {name}")


class StandIn(ModuleType):
    """A module of functions that says which one is missing."""

    def __init__(self, name: str, **contents: Any) -> None:
        super().__init__(name)
        self.__dict__.update(contents, __path__=[])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        raise missing(f"{self.__name__}.{name}".removeprefix("torch."))


def install() -> None:
    """Make `import torch` give the stand-in in this process."""
    nn = StandIn("torch.nn", Module=Module)
    torch = StandIn("torch", Tensor=Tensor, arange=arange, split=split, cat=cat, no_grad=no_grad, nn=nn)
    sys.modules.update({"torch": torch, "torch.nn": nn})
