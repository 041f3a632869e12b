"""What of a graph can be moved to 16 bits together, what that costs and what error it should remove.

As for a plain ViT (`quantize.groups`), but by what operations are: a residual sum with the norms that read it, the
operations of a branch from its end backwards, any few neighbours.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from edgevit.quantize.candidates import CandidatePlan
from edgevit.quantize.graph.structure import Operation, Structure
from edgevit.quantize.groups import TRAFFIC_WEIGHT, PrecisionGroup
from edgevit.targets.profiles import Npu

# A branch is moved from its end backwards, so many operations at most.
LONGEST = 24
RUNS = (2, 4, 8)
# An int8 tensor read and a 16-bit one written, or the other way round, in bytes a value.
CONVERSION = 3
# Plans that differ by less than this share of the error that is left are one plan: a search tries few of them.
STEP = 0.03


def groups_of(structure: Structure) -> list[PrecisionGroup]:
    """Every group, the smallest first."""
    operations = structure.operations
    movable = [name for name in operations if name not in structure.inside]
    found = [PrecisionGroup(name, name, with_norms(structure, {name})) for name in movable]
    found += [PrecisionGroup(name, name, frozenset({name})) for name in movable]
    for operation in operations.values():
        if operation.adds:
            found += branches(structure, operation)
    order = list(operations)
    for length in RUNS:
        for start in range(0, len(order) - length + 1, length // 2):
            run = frozenset(order[start : start + length]).difference(structure.inside)
            if run:
                found.append(
                    PrecisionGroup(
                        f"{order[start]}+{length}", f"{length} operations from {order[start]}", run
                    )
                )
    unique: dict[frozenset[str], PrecisionGroup] = {}
    for group in found:
        tensors = group.tensors - given(structure)
        if tensors:
            unique.setdefault(tensors, replace(group, tensors=tensors))
    return sorted(unique.values(), key=lambda group: len(group.tensors))


def given(structure: Structure) -> frozenset[str]:
    """What no operation makes, the image: it comes as it is."""
    return frozenset(name for name, operation in structure.operations.items() if not operation.kinds)


def with_norms(structure: Structure, names: Iterable[str]) -> frozenset[str]:
    """Tensors, and the norms that read them: a norm of an int8 copy would undo what was gained."""
    chosen = set(names)
    for name in list(chosen):
        chosen |= {each for each in structure.readers[name] if structure.operations[each].norm}
    return frozenset(chosen)


def branches(structure: Structure, add: Operation) -> list[PrecisionGroup]:
    """A residual sum with more and more of the branch that it adds, from its end backwards."""
    found, chosen = [], {add.name}
    order = {name: number for number, name in enumerate(structure.operations)}
    latest = max((order[each] for each in add.inputs), default=-1)
    queue = [each for each in add.inputs if order[each] == latest]
    while queue and len(chosen) < LONGEST:
        name = max(queue, key=lambda each: order[each])
        queue.remove(name)
        operation = structure.operations[name]
        if name in chosen or operation.adds or (operation.norm and chosen - {add.name} == set()):
            continue
        if name not in structure.inside:
            chosen.add(name)
            what = f"the sum {add.name} and {len(chosen) - 1} operations before it"
            found.append(PrecisionGroup(f"{add.name}-{len(chosen)}", what, with_norms(structure, chosen)))
        queue += [each for each in operation.inputs if each not in queue]
    return found


class Errors:
    """The error of a plan, as the sum of what rounding each tensor alone would cause, KL in nats per image."""

    def __init__(self, structure: Structure, effects: Mapping[str, float]) -> None:
        self.structure, self.effects = structure, effects

    def of(self, name: str, sixteen_bit: Collection[str]) -> float:
        """What is left of one tensor's error: of a 16-bit tensor, the share of readers that round it to int8."""
        if self.structure.rounded_when_made(name, sixteen_bit):
            return self.effects.get(name, 0.0)
        readers = self.structure.readers[name]
        if name not in sixteen_bit or not readers:
            return 0.0
        return self.effects.get(name, 0.0) * sum(each not in sixteen_bit for each in readers) / len(readers)


class Costs:
    """Extra cycles of a plan over everything int8."""

    def __init__(self, structure: Structure, npu: Npu) -> None:
        self.structure, self.npu = structure, npu
        self.bytes_per_cycle = npu.ddr_bytes_per_cycle or math.inf  # not known: not counted

    def of(self, name: str, sixteen_bit: Collection[str]) -> float:
        """Of one operation: its layers in 16 bits, or its wider tensors, and conversions of what it reads."""
        operation = self.structure.operations[name]
        wide = name in sixteen_bit
        moved = 0.0 if not wide or operation.linear else (len(operation.inputs) + 1) * operation.elements
        for each in operation.inputs:
            if (each in sixteen_bit) != wide:
                moved += CONVERSION * self.structure.operations[each].elements
        cycles = self.layers(operation) if wide else 0.0
        return cycles + TRAFFIC_WEIGHT * moved / self.bytes_per_cycle

    def layers(self, operation: Operation) -> float:
        """Extra cycles of an operation's layers in 16 bits, which the vendor's compiler counts."""
        eight = self.npu.macs_per_cycle_int8 or 2 * (self.npu.macs_per_cycle_float or 1)
        sixteen = self.npu.macs_per_cycle_float or eight / 2
        macs = sum(self.npu.macs_of(each.rows, each.inputs, each.outputs) for each in operation.layers)
        return macs / sixteen - macs / eight

    def compiler(self, sixteen_bit: Collection[str]) -> float:
        """The share that the vendor's compiler counts."""
        return sum(self.layers(self.structure.operations[name]) for name in sixteen_bit)


def candidate_plans(structure: Structure, effects: Mapping[str, float], npu: Npu) -> list[CandidatePlan]:
    """Plans from everything int8 to everything in 16 bits, each adding what removes most error per cycle."""
    errors, costs = Errors(structure, effects), Costs(structure, npu)
    kept: set[str] = set()
    error = sum(errors.of(name, kept) for name in structure.operations)
    cost = 0.0
    plans = [CandidatePlan("", "everything int8", (), 0.0, 0.0, error)]
    groups = groups_of(structure)

    def gain(group: PrecisionGroup) -> tuple[float, float]:
        touched = around(structure, group.tensors - kept)
        wider = kept | group.tensors
        less = sum(errors.of(name, kept) - errors.of(name, wider) for name in touched)
        more = sum(costs.of(name, wider) - costs.of(name, kept) for name in touched)
        return less, more

    # Gains of most groups don't change by what was added elsewhere: only the best one is computed anew.
    heap = [(-ratio(*gain(group)), number) for number, group in enumerate(groups)]
    heapq.heapify(heap)
    while heap:
        _, number = heapq.heappop(heap)
        group = groups[number]
        if group.tensors <= kept:
            continue
        less, more = gain(group)
        now = -ratio(less, more)
        if heap and now > heap[0][0] + 1e-15:
            heapq.heappush(heap, (now, number))
            continue
        if less <= 0:
            continue
        kept |= group.tensors
        error, cost = error - less, cost + more
        if error < (1 - STEP) * plans[-1].estimated_kl or not heap:
            tensors = tuple(sorted(kept))
            plans.append(
                CandidatePlan(group.name, group.description, tensors, cost, costs.compiler(kept), error)
            )
    everything = tuple(sorted(set(structure.operations) - structure.inside.keys() - given(structure)))
    if plans[-1].sixteen_bit != everything:
        wide = set(everything)
        cost = sum(costs.of(name, wide) for name in structure.operations)
        plans.append(CandidatePlan("all", "everything", everything, cost, costs.compiler(wide), 0.0))
    return plans


def ratio(less: float, more: float) -> float:
    """Error removed per cycle; cheaper than nothing counts as one cycle."""
    return less / max(more, 1.0)


def around(structure: Structure, names: Iterable[str]) -> set[str]:
    """Tensors, what they are made of and what reads them: all whose error or cost they change."""
    found = set(names)
    for name in list(found):
        found |= {*structure.operations[name].inputs, *structure.readers[name]}
        found |= {
            each for each, reader in (*structure.into.items(), *structure.inside.items()) if reader == name
        }
    return found
