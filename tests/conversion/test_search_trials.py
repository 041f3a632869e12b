"""A search's trials on workers: what they give is what one machine gives, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgevit.backends.protocol import CompileRequest, Simulator
from edgevit.cluster.tasks import Ended, Task, ended
from edgevit.conversion import search_trials
from edgevit.errors import ToolchainError
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import QUIET
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import load_board


class Workers:
    """So many in this process; the last task begun ends first."""

    def __init__(self, count: int) -> None:
        self.count, self.begun = count, list[Task]()

    def free(self) -> int:
        return self.count - len(self.begun)

    def start(self, task: Task) -> None:
        self.begun.append(task)

    def wait(self) -> list[Ended]:
        return [ended(self.begun.pop())]


def plan(count: int) -> PrecisionPlan:
    return PrecisionPlan("int8", {}, sixteen_bit=tuple(f"blocks.{each}.fc1" for each in range(count)))


@pytest.fixture
def request_(tmp_path: Path) -> CompileRequest:
    return CompileRequest(
        onnx=tmp_path / "model.onnx",
        vendor_float=None,
        plan=plan(0),
        board=load_board("rk3588"),
        preprocessing=Preprocessing(size=(8, 8)),
        calibration=tmp_path / "pixels.npy",
        evaluate=tmp_path / "evaluated.npy",
        out=tmp_path,
    )


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A vendor's simulator that counts its trials, and can't build a plan of three tensors."""
    seen: list[int] = []

    @contextmanager
    def simulations(request: CompileRequest, progress: Any) -> Iterator[Simulator]:
        def outputs(wanted: PrecisionPlan) -> np.ndarray:
            seen.append(len(wanted.sixteen_bit))
            (request.out / "left.bin").write_bytes(b"much")
            if len(wanted.sixteen_bit) == 3:
                raise ToolchainError("cannot build it", "it crashes", "Leave it")
            return np.full((2, 3), len(wanted.sixteen_bit), np.float32)

        yield Simulator(outputs, frozenset({"logits"}))

    monkeypatch.setattr(search_trials, "backend_of", lambda _: SimpleNamespace(simulations=simulations))
    return seen


def test_a_trial_on_a_worker_gives_what_it_gives_here(request_: CompileRequest) -> None:
    for workers in (None, Workers(2)):
        with search_trials.simulator_of(request_, workers, QUIET) as (simulator, _):
            assert (simulator.outputs(plan(2)) == 2).all()
            assert simulator.stored == frozenset({"logits"})


def test_likely_trials_are_begun_as_workers_allow_and_done_once(
    request_: CompileRequest, simulated: list[int]
) -> None:
    workers = Workers(3)
    with search_trials.simulator_of(request_, workers, QUIET) as (simulator, ahead):
        ahead([plan(0), plan(1), plan(2), plan(4)])
        assert workers.free() == 0
        assert (simulator.outputs(plan(0)) == 0).all()
        assert (simulator.outputs(plan(1)) == 1).all()
        ahead([plan(1), plan(5)])
    assert sorted(simulated) == [0, 1, 2, 5]
    assert workers.free() == 3
    assert not list(request_.out.glob("trial-*"))


def test_a_plan_that_can_not_be_built_says_so_when_it_is_asked_for(request_: CompileRequest) -> None:
    with search_trials.simulator_of(request_, Workers(2), QUIET) as (simulator, ahead):
        ahead([plan(1), plan(3)])
        assert (simulator.outputs(plan(1)) == 1).all()
        with pytest.raises(ToolchainError, match="it crashes"):
            simulator.outputs(plan(3))
