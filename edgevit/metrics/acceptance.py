"""What "loses at most X points" means: one definition, asked by everything that accepts or refuses a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgevit.metrics.predicted_loss import PredictedLoss  # brings scipy

DEFAULT_MAX_DROP = 0.5  # points of top-1 that may be lost where the user sets no limit


@dataclass(frozen=True)
class Acceptance:
    """At most `max_drop` points of top-1 are lost.

    Three kinds of evidence answer it. With labels, the measured points decide (`allows`: what the user's --max-drop
    is held against) or, where a claim is made to others, their whole interval (`proves`). Before those are measured
    a predicted loss decides (`keeps`): by the largest of two bounds, or by its points where calibration images have
    labels.
    """

    max_drop: float = DEFAULT_MAX_DROP

    def allows(self, points: float) -> bool:
        """Whether so many points, measured or expected, are within the limit."""
        return points <= self.max_drop

    def proves(self, low: float, high: float) -> bool | None:
        """Whether an interval of the points lost lies within the limit; None where the limit lies inside it."""
        if high <= self.max_drop:
            return True
        return False if low > self.max_drop else None

    def keeps(self, loss: PredictedLoss) -> bool:
        """Whether a predicted loss keeps within the limit."""
        return self.allows(provable_drop(loss))

    def shortfall(self, loss: PredictedLoss) -> float:
        """At most 1 where a predicted loss keeps within the limit; otherwise how many times it misses."""
        return provable_drop(loss) / max(self.max_drop, 1e-9)

    def shared(self, parts: int) -> Acceptance:
        """The limit of each of so many steps that together may cost this one's."""
        return Acceptance(self.max_drop / max(1, parts))


def provable_drop(loss: PredictedLoss) -> float:
    """The smallest drop, in points, that a predicted loss can be said to keep within.

    By the float model's probabilities, and by the predictions that change, should those probabilities promise too
    much; by the upper ends of both: a loss on the edge of a limit must not come and go with the images. Where
    labels have shown what the probabilities are worth, they decide alone.
    """
    if loss.calibrated:
        return loss.upper
    return max(loss.upper, loss.changes_upper / loss.changes_per_point)
