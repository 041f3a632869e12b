"""Ranges from statistics, and whether there were enough images to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgevit.quantize.fake_quantization import Ranges
from edgevit.quantize.observers import Range, choose_range
from edgevit.quantize.statistics import Statistics
from edgevit.quantize.tensor_names import STREAM_TAPS, kind_of

# One half of the images may see a range this much wider than the other before we call the set too small.
UNSTABLE = 1.25
UNSTABLE_SHARE = 0.1


def ranges_of(statistics: Statistics, observer: str | Mapping[str, str]) -> dict[str, Range]:
    """A range for every tensor: one observer for all, or one for each kind of tensor ("" for the others)."""
    by_kind = {"": observer} if isinstance(observer, str) else dict(observer)
    return {
        name: choose_range(kind_of(name), observed, by_kind.get(kind_of(name), by_kind[""]))
        for name, observed in statistics.items()
    }


# How far ranges of the stream are narrowed from everything seen (0) towards the least output error (1). Few
# tokens decide these ranges, and a observed of a few thousand rows says too little about them: measured instead.
NARROWINGS = (0.0, 0.5, 1.0)


def narrowed(statistics: Statistics, least: Ranges, share: float) -> dict[str, Range]:
    """`least` (output-error ranges); those of the stream a geometric mean with all seen, `share` of it narrow."""
    best = dict(least)
    for name, observed in statistics.items():
        if kind_of(name) in (*STREAM_TAPS, "patch"):
            ends = zip(observed.full, best[name], strict=True)
            low, high = (sign_of(seen) * abs(seen) ** (1 - share) * abs(near) ** share for seen, near in ends)
            best[name] = (low, high)
    return best


def sign_of(value: float) -> float:
    return -1.0 if value < 0 else 1.0


@dataclass(frozen=True)
class Stability:
    """How far two disjoint halves of the calibration images agree about the tensors' ranges."""

    images: int
    unstable: tuple[str, ...]
    worst: str
    worst_ratio: float
    tensors: int

    @property
    def warning(self) -> str | None:
        """One line for the user where the set is too small, else None."""
        if len(self.unstable) <= UNSTABLE_SHARE * self.tensors:
            return None
        return (
            f"{self.images} calibration images are few for this model: ranges of {len(self.unstable)} of "
            f"{self.tensors} tensors differ by more than {UNSTABLE - 1:.0%} between two halves of them "
            f"(most in {self.worst}, {self.worst_ratio:.1f} times); give more images"
        )


def stability(statistics: Statistics) -> Stability:
    """Compare the widths that even and odd images need."""
    ratios = {}
    for name, observed in statistics.items():
        widths = []
        for half in (0, 1):
            part = replace(observed, low=observed.low[half::2], high=observed.high[half::2])
            widths.append(part.full[1] - part.full[0])
        ratios[name] = max(widths) / max(min(widths), 1e-12)
    worst = max(ratios, key=lambda name: ratios[name])
    images = len(next(iter(statistics.values())).low)
    unstable = tuple(name for name, ratio in ratios.items() if ratio > UNSTABLE)
    return Stability(images, unstable, worst, ratios[worst], len(ratios))


def predicted_effect(statistics: Statistics, ranges: Ranges) -> dict[str, float]:
    """The KL divergence per image (nats) that rounding each tensor causes, if errors are independent."""
    return {name: statistics[name].effect(span) for name, span in ranges.items()}
