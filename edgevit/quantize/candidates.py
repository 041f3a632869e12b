"""Plans worth trying, from everything int8 to everything in 16 bits, by error removed per cycle."""

from __future__ import annotations

from dataclasses import dataclass

from edgevit.quantize.groups import Costs, Errors, PrecisionGroup


@dataclass(frozen=True)
class CandidatePlan:
    """One candidate plan: its 16-bit tensors, the group added last, extra cycles, estimated KL."""

    added: str
    description: str
    sixteen_bit: tuple[str, ...]
    cycles: float
    compiler_cycles: float
    estimated_kl: float


def candidate_plans(groups: list[PrecisionGroup], errors: Errors, costs: Costs) -> list[CandidatePlan]:
    """Plans from everything int8 upwards, each adding the group that removes most error per cycle."""
    kept: frozenset[str] = frozenset()
    error, cost = errors(kept), costs(kept)
    candidates = [CandidatePlan("", "everything int8", (), 0.0, 0.0, error)]
    while True:
        best: tuple[float, PrecisionGroup, float, float] | None = None
        for group in groups:
            wider = kept | group.tensors
            if wider == kept:
                continue
            gain, price = error - errors(wider), max(costs(wider) - cost, 1.0)
            if gain > 0 and (best is None or gain / price > best[0]):
                best = (gain / price, group, errors(wider), costs(wider))
        if best is None:
            return candidates
        _, group, error, cost = best
        kept |= group.tensors
        tensors = tuple(sorted(kept))
        candidates.append(
            CandidatePlan(group.name, group.description, tensors, cost, costs.compiler(kept), error)
        )
