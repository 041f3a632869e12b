"""What was found by trying for the whole model, from which its smaller versions may begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.quantize.conditioning import Known
from edgevit.run.step import Step

if TYPE_CHECKING:
    from edgevit.conversion.artefacts import Conversion
    from edgevit.targets.profiles import Board


@dataclass(frozen=True)
class Precedent:
    """The whole model's export: the rewrites that paid, and what was kept for int8, where that was tried."""

    export: Step

    @property
    def key(self) -> str:
        """What decides it."""
        return self.export.key

    @property
    def rewrites(self) -> list[str]:
        """Those that changed it."""
        return [each["name"] for each in self.export.metrics["rewrites"] if each["changed"]]

    @property
    def int8(self) -> Known | None:
        """What a plain ViT was conditioned with; None where it was not."""
        found = self.export.metrics.get("int8", {})
        if "observer" not in found:
            return None
        return Known(
            {each["name"]: each["number"] for each in found["conditioning"] if each["kept"]},
            found["observer"],
        )


def precedent_of(conversion: Conversion, board: Board, precision: str) -> Precedent | None:
    """What was found for the whole model on a board, made first if need be; None where that is not asked for."""
    whole = conversion.whole
    return None if whole is None else Precedent(whole.exported(board, precision))


def plan_of_whole(conversion: Conversion, board: Board, precision: str) -> Step | None:
    """The search for the whole model's plan, made first if need be; None where that is not asked for."""
    whole = conversion.whole
    return None if whole is None else whole.planned(board, precision)
