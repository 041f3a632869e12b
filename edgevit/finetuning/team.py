"""Several processes that train together, one a GPU, as `accelerate launch` starts them; usually there is one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from edgevit.errors import InputError

PATIENCE = timedelta(hours=6)  # while the first computes features, or measures


@dataclass(frozen=True)
class Team:
    """This process and the others. `accelerator` is accelerate's object where there are others.

    What one of them calls all must call, or they wait for each other.
    """

    rank: int = 0
    size: int = 1
    accelerator: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes the files and tells the user."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """What this process computes on."""
        if self.accelerator is not None:
            return torch.device(self.accelerator.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def together(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Module and optimizer whose gradients are everyone's."""
        if self.accelerator is None:
            return module, optimizer
        prepared: tuple[Any, Any] = self.accelerator.prepare(module, optimizer)
        return prepared

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        if self.accelerator is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self.accelerator.backward(loss)

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of everyone's value."""
        return value if self.accelerator is None else self.accelerator.reduce(value.detach(), "sum")  # type: ignore[no-any-return]

    def agreed(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]


def team() -> Team:
    """The processes that `accelerate launch` (or torchrun) started; this one alone where nothing did.

    Raises InputError where there are several and accelerate is not installed.
    """
    size = int(os.environ.get("WORLD_SIZE", "1") or 1)
    if size == 1:
        return Team()
    try:
        from accelerate import Accelerator, InitProcessGroupKwargs
    except ImportError as error:
        raise InputError(
            f"cannot train with {size} processes",
            "it needs the package accelerate",
            'Run "pip install edgevit[finetune]"',
        ) from error
    waiting = InitProcessGroupKwargs(timeout=PATIENCE)
    accelerator = Accelerator(kwargs_handlers=[waiting])
    return Team(accelerator.process_index, accelerator.num_processes, accelerator)
