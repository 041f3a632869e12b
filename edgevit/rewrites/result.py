"""What a rewrite gives back."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class RewriteResult(NamedTuple):
    """A new module when `changed`, else the one given; `what` says what was done, or why nothing was."""

    module: nn.Module
    changed: bool
    what: str
