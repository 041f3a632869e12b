"""A search's trials, here or on workers: those make the model in one plan each, the likely next ones beforehand."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgevit.backends.protocol import CompileRequest, Simulator
from edgevit.backends.registry import backend_of
from edgevit.cluster.tasks import Ended, Task, Workers
from edgevit.placement.layers import Placement
from edgevit.progress import Progress

if TYPE_CHECKING:
    from edgevit.quantize.plan import PrecisionPlan

Ahead = Callable[[Sequence["PrecisionPlan"]], None]


@contextmanager
def simulator_of(
    request: CompileRequest, workers: Workers | None, progress: Progress
) -> Iterator[tuple[Simulator, Ahead]]:
    """Simulates plans here or by workers; and how to tell which may come next."""
    simulations = backend_of(request.board).simulations
    assert simulations is not None  # who searches has one
    with simulations(request, progress) as own:
        if workers is None:
            yield own, lambda _: None
            return
        with on_workers(request, own, workers) as found:
            yield found


@dataclass(frozen=True)
class Trial:
    """What one plan gave: its outputs on the images of the request, and where it runs, where that is told."""

    outputs: npt.NDArray[np.float32]
    placed: Placement | None


def simulate_plan(request: CompileRequest, progress: Progress) -> Trial:
    """One trial as a task, in a folder of its own; what another try left is removed first."""
    shutil.rmtree(request.out, ignore_errors=True)
    request.out.mkdir()
    try:
        with simulator_of(request, None, progress) as (simulator, _):
            outputs = simulator.outputs(request.plan)
            return Trial(outputs, None if simulator.placed is None else simulator.placed(request.plan))
    finally:
        shutil.rmtree(request.out, ignore_errors=True)


@dataclass
class OnWorkers:
    """Trials begun and ended, by their 16-bit tensors: in one search all else of a plan is the same."""

    request: CompileRequest
    workers: Workers
    ended: dict[tuple[str, ...], Ended] = field(default_factory=dict)
    running: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def begin(self, plans: Sequence[PrecisionPlan]) -> None:
        """Begin those of the plans that are not begun, as many as there are workers for."""
        for plan in plans:
            known = plan.sixteen_bit in self.ended or plan.sixteen_bit in self.running.values()
            if known or self.workers.free() < 1:
                continue
            name = f"trial-{len(self.ended) + len(self.running)}"
            own = replace(self.request, plan=plan, out=self.request.out / name)
            task = Task(name, simulate_plan, (own,))
            self.workers.start(task)
            self.running[task.name] = plan.sixteen_bit

    def wait(self) -> None:
        """Until one has ended."""
        for each in self.workers.wait():
            self.ended[self.running.pop(each.task.name)] = each

    def trial(self, plan: PrecisionPlan) -> Trial:
        """What a plan gave. Raises the EdgevitError of a trial that fails on every worker that tried it."""
        while plan.sixteen_bit not in self.ended:
            self.begin([plan])
            self.wait()
        found = self.ended[plan.sixteen_bit]
        if found.error is not None:
            raise found.error
        trial: Trial = found.value
        return trial


@contextmanager
def on_workers(
    request: CompileRequest, own: Simulator, workers: Workers
) -> Iterator[tuple[Simulator, Ahead]]:
    """This machine's simulator with its trials done by workers, and how to tell them what may come next."""
    trials = OnWorkers(request, workers)

    def placed(plan: PrecisionPlan) -> Placement:
        known = trials.ended.get(plan.sixteen_bit)
        if known is not None and known.error is None and known.value.placed is not None:
            there: Placement = known.value.placed
            return there
        assert own.placed is not None
        return own.placed(plan)

    try:
        yield (
            replace(
                own,
                outputs=lambda plan: trials.trial(plan).outputs,
                placed=None if own.placed is None else placed,
            ),
            trials.begin,
        )
    finally:
        while trials.running:  # what nobody needs any more: the workers are to be free for others
            trials.wait()
