"""edgevit bench through the real adb client."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevit.bench.choose import choose
from edgevit.bench.connect import Place, reach
from edgevit.bench.measure import measure
from edgevit.bench.prepare import Settings
from edgevit.bench.transport import TransportError
from edgevit.progress import QUIET
from tests.bench.adb_device import MODERN, Device
from tests.bench.adb_server import adb_server, attach, needs_adb
from tests.bench.made_run import IMAGES, Tree, make_run

pytestmark = [pytest.mark.adb, needs_adb]
QUICK = Settings(runs=3, seconds=0, threads=(1,))


@pytest.fixture(params=[MODERN, ("cmd",)], ids=["modern", "old"])
def device(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Device]:
    with adb_server(tmp_path, monkeypatch):
        made = Device(tmp_path / "device", features=request.param)
        attach(made)
        yield made
        made.vanish()


def place(device: Device, work: Path) -> Place:
    work.mkdir()
    return Place(f"adb:{device.serial}", python=sys.executable, work_folder=str(work))


def test_predictions_are_those_of_the_local_evaluation(device: Device, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "sys")
    tree.make()
    run = make_run(tmp_path / "run", tree)
    at = place(device, tmp_path / "work")
    (artefact,) = choose(run, at, "onnx")
    settings = Settings(runs=3, seconds=0, threads=(1,), pin_clocks=True)
    record = measure(artefact, at, reach(at), settings, QUIET)
    assert record["same_as_local"]["n"] == record["same_as_local"]["agree"] == IMAGES
    assert record["clocks"]["pinned"]
    assert tree.floats()
    assert list((tmp_path / "work").iterdir()) == []


def test_no_python_there(device: Device, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    at = Place(f"adb:{device.serial}", python="python9")
    (artefact,) = choose(run, at, "onnx")
    with pytest.raises(TransportError) as caught:
        measure(artefact, at, reach(at), QUICK, QUIET)
    assert str(caught.value).startswith(f"cannot measure on adb:{device.serial}: there is no python9. ")


def test_device_that_vanishes_cleans_up_behind_us(device: Device, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "sys")
    tree.make()
    run = make_run(tmp_path / "run", tree)
    at = place(device, tmp_path / "work")
    (artefact,) = choose(run, at, "onnx")

    class Pull:
        """Pulls the cable when the runner is under way."""

        def stage(self, name: str) -> None:
            pass

        def warn(self, text: str) -> None:
            pass

        def advance(self, done: int, total: int, note: str = "") -> None:
            assert not tree.floats()
            device.vanish()

    slow = Settings(runs=3, seconds=30, threads=(1,), pin_clocks=True)
    with pytest.raises(TransportError) as caught:
        measure(artefact, at, reach(at), slow, Pull())
    assert str(caught.value).startswith(f"lost adb:{device.serial}: the connection broke off")
    wait_for_nothing(tmp_path / "work", tree)


def wait_for_nothing(work: Path, tree: Tree) -> None:
    import time

    for _ in range(600):
        if not list(work.iterdir()) and tree.floats():
            return
        time.sleep(0.05)
    raise AssertionError((list(work.iterdir()), tree.state()))
