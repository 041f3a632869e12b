"""Many images evaluated in shares give what one evaluation gives, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgevit.backends.protocol import CompileRequest, CompileResult
from edgevit.cluster.tasks import Ended, Task
from edgevit.conversion import shards
from edgevit.errors import EdgevitError
from tests.conversion.conftest import Project, project  # noqa: F401

pytestmark = pytest.mark.slow


def evaluated(project: Project, *arguments: str) -> dict[str, Any]:  # noqa: F811
    project.convert("--precision", "int8", "--precision", "float", *arguments, "--out", "runs/a")
    return {
        each["artefact"]: (each["sha256"], each["accuracy"]) for each in project.manifest("runs/a")["results"]
    }


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 2)


def test_shares_on_a_cluster_give_what_one_machine_gives(project: Project, small_shares: None) -> None:  # noqa: F811
    whole = evaluated(project)
    project.run("cache", "clean", "--all")
    assert evaluated(project, "--local", "2") == whole


class Spread:
    """Workers in this process, each share changed by `change` before it is told."""

    def __init__(self, change: Callable[[Ended], Ended]) -> None:
        self.change, self.begun = change, list[Task]()

    def free(self) -> int:
        return 2 - len(self.begun)

    def start(self, task: Task) -> None:
        self.begun.append(task)

    def wait(self) -> list[Ended]:
        (request,) = self.begun[-1].arguments
        pixels = np.load(request.evaluate)
        outputs, artefact = request.out / "outputs.npy", request.out / "model.bin"
        np.save(outputs, pixels.reshape(len(pixels), -1)[:, :3].astype(np.float32))
        artefact.write_bytes(b"model")
        made = Ended(self.begun.pop(), CompileResult(artefact, outputs, "here", {}))
        return [self.change(made)]


@pytest.fixture
def request_(tmp_path: Any) -> CompileRequest:
    from edgevit.images.preprocessing import Preprocessing
    from edgevit.quantize.plan import PrecisionPlan
    from edgevit.targets.profiles import load_board

    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    own = Preprocessing((4, 4))
    out = tmp_path / "out"
    out.mkdir()
    paths = {"calibration": tmp_path / "pixels.npy", "evaluate": tmp_path / "pixels.npy", "out": out}
    return CompileRequest(None, None, PrecisionPlan("int8"), load_board("onnx"), own, **paths)


def test_shares_are_joined_in_the_order_of_the_images(request_: CompileRequest, small_shares: None) -> None:
    from edgevit.progress import QUIET

    found = shards.compile_in_shards(request_, Spread(lambda each: each), QUIET)
    assert found.outputs is not None and request_.evaluate is not None
    pixels = np.load(request_.evaluate)
    np.testing.assert_array_equal(np.load(found.outputs), pixels.reshape(7, -1)[:, :3])
    assert sorted(each.name for each in request_.out.iterdir()) == ["model.bin", "outputs.npy"]


def test_workers_that_compute_different_outputs_are_not_joined(
    request_: CompileRequest, small_shares: None
) -> None:
    from edgevit.progress import QUIET

    def changed(each: Ended) -> Ended:
        if each.value.outputs.parent.name == "1":
            np.save(each.value.outputs, np.load(each.value.outputs) + 1)
        return each

    with pytest.raises(EdgevitError, match="two workers' artefacts compute different outputs"):
        shards.compile_in_shards(request_, Spread(changed), QUIET)


def test_a_share_that_fails_everywhere_ends_the_evaluation(
    request_: CompileRequest, small_shares: None
) -> None:
    from edgevit.progress import QUIET

    broken = EdgevitError("cannot simulate", "it crashed", "See the log")
    with pytest.raises(EdgevitError, match="it crashed"):
        shards.compile_in_shards(
            request_, Spread(lambda each: replace(each, value=None, error=broken)), QUIET
        )
