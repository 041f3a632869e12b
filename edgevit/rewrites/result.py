"""What a rewrite gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn


class RewriteResult(NamedTuple):
    """A new module when `changed`, else the one given; `what` says what was done, or why nothing was."""

    module: nn.Module
    changed: bool
    what: str


@dataclass(frozen=True)
class RewriteRecord:
    """What one rewrite did: for the manifest and the report."""

    name: str
    changed: bool
    what: str
    max_output_difference: float | None
