"""The local page: what it answers, what it refuses, and how it looks in a browser."""

from __future__ import annotations

import base64
import copy
import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgevit.errors import InputError
from edgevit.trying.answers import Answers
from edgevit.trying.page import MOST_BYTES, application
from tests.conversion.conftest import MODEL, Project
from tests.conversion.test_kinds import TWO
from tests.images.pictures import class_folders, picture, truncated
from tests.reporting.chromium import Browser, executable

flask = pytest.importorskip("flask")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a float and an int8 artefact that run here."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "model.py").write_text(MODEL.replace("num_classes=3", "num_classes=4"))
    for seed, role in enumerate(("calibration", "validation")):
        class_folders(folder / "images" / role, 16, seed=seed)
    Project(folder).convert("--precision", "float", "--precision", "int8")
    return folder / "runs" / "model"


@pytest.fixture(scope="module")
def answers(run: Path) -> Answers:
    return Answers(run)


@pytest.fixture(autouse=True)
def here(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that the user converted in: model.py is there."""
    monkeypatch.chdir(run.parents[1])


@pytest.fixture
def client(answers: Answers) -> Any:
    return application(answers).test_client()


def sent(content: bytes, *artefacts: str) -> dict[str, Any]:
    return {"picture": (io.BytesIO(content), "picture.png"), "artefact": list(artefacts)}


def png() -> bytes:
    buffer = io.BytesIO()
    picture(size=(60, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_page_offers_what_runs_here(client: Any) -> None:
    page = client.get("/").get_data(as_text=True)
    assert [f'value="{key}"' in page for key in ("onnx float", "onnx int8", "float")] == [True] * 3
    assert "default-src 'self'" in client.get("/").headers["Content-Security-Policy"]


def test_a_picture_is_answered_by_each_artefact_asked(client: Any) -> None:
    said = client.post("/answers", data=sent(png(), "onnx float", "float")).get_json()
    assert [each["key"] for each in said["answers"]] == ["onnx float", "float"]
    first, second = (dict(each["classes"]) for each in said["answers"])
    assert first == pytest.approx(second, abs=1e-3)  # the float artefact computes what torch does
    assert sum(first.values()) == pytest.approx(1)
    assert said["attention"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("data", "code", "error"),
    [
        ({"artefact": ["onnx float"]}, 400, "no picture"),
        (sent(b"x"), 400, "no artefact is chosen"),
        (sent(b"x", "../../etc/passwd"), 400, "no artefact is chosen"),
        (sent(b"no picture", "onnx float"), 400, "cannot read the picture: not an image"),
        (sent(b"", "onnx float"), 400, "cannot read the picture: not an image"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    client: Any, data: dict[str, Any], code: int, error: str
) -> None:
    answer = client.post("/answers", data=data)
    assert (answer.status_code, answer.get_json()) == (code, {"error": error})


def test_a_damaged_and_a_huge_picture_are_one_line(client: Any, tmp_path: Path) -> None:
    damaged = client.post("/answers", data=sent(truncated(tmp_path / "cut.jpg").read_bytes(), "onnx float"))
    assert damaged.get_json()["error"].startswith("cannot read the picture: ")
    huge = client.post("/answers", data=sent(b"x" * (MOST_BYTES + 1), "onnx float"))
    assert (huge.status_code, huge.get_json()) == (413, {"error": "the picture is larger than 32 MiB"})


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """A run of a model that gives a vector and a map."""
    folder = tmp_path_factory.mktemp("maps")
    (folder / "model.py").write_text(MODEL + TWO)
    for seed, role in enumerate(("calibration", "validation")):
        class_folders(folder / "images" / role, 16, seed=seed)
    images = ("--calibration", "images/calibration", "--validation", "images/validation")
    precisions = ("--precision", "float", "--precision", "int8")
    Project(folder).run(
        "convert", "model.py:features", "--target", "onnx", *images, *precisions, "--out", "run"
    )
    return Answers(folder / "run")


@pytest.mark.slow
def test_outputs_that_are_no_classes_are_told_and_drawn(
    maps: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(maps.run.folder.parent)
    client = application(maps).test_client()
    assert "Gives vector (embedding), grid (dense)" in client.get("/").get_data(as_text=True)
    said = client.post("/answers", data=sent(png(), "onnx int8", "float")).get_json()["answers"]
    vector, grid = said[0]["outputs"]
    assert vector["picture"] is None
    cosine = float(vector["words"].rpartition(" ")[2])
    assert vector["words"].startswith("embedding, 32; cosine to the float model ") and 0.9 < cosine <= 1
    drawn = Image.open(io.BytesIO(base64.b64decode(grid["picture"].partition(",")[2])))
    assert drawn.mode == "RGB"
    assert said[1]["outputs"][1]["words"] == "dense, 32 x 2 x 2"


def test_hostile_names_are_escaped(answers: Answers) -> None:
    evil = "<script>alert(1)</script>"
    model = answers.run.manifest.model.model_copy(update={"name": evil})
    manifest = answers.run.manifest.model_copy(update={"model": model})
    hostile = copy.copy(answers)
    hostile.run = replace(answers.run, manifest=manifest)
    page = application(hostile).test_client().get("/").get_data(as_text=True)
    assert evil not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot try "):
        Answers(tmp_path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_the_command_listens_on_this_machine_only_and_says_where(run: Path) -> None:
    port = free_port()
    line = [sys.executable, "-m", "edgevit", "try", str(run), "--port", str(port), "--no-open"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=run.parents[1])
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/  (Ctrl-C ends it)\n"
        taken = subprocess.run(line, capture_output=True, text=True, cwd=run.parents[1], timeout=60)
        assert taken.returncode == 1
        assert taken.stderr.splitlines()[-1] == (
            f"error: cannot listen on 127.0.0.1:{port}: another program does, or it is not allowed. "
            "Choose another --port."
        )
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def address(answers: Answers) -> Iterator[str]:
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", free_port(), application(answers), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.port}/"
    server.shutdown()


GIVE = """
(() => { const canvas = document.createElement("canvas"); canvas.width = 60; canvas.height = 40;
canvas.getContext("2d").fillRect(10, 10, 20, 20); canvas.toBlob(ask); })()
"""
OVERFLOWING = """
[...document.body.querySelectorAll('*')].filter(each =>
    each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 120))
"""


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(executable() is None, reason="no Chromium (apt-get install chromium)")
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize(("width", "height", "dark"), [(1366, 768, False), (390, 844, True)])
def test_a_picture_given_in_a_browser_is_answered(
    address: str, tmp_path: Path, width: int, height: int, dark: bool
) -> None:
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(address, width=width, height=height, dark=dark)
        browser.value(GIVE)
        deadline = time.monotonic() + 60
        while browser.value("document.querySelectorAll('section.answer').length") != 3:
            assert time.monotonic() < deadline, browser.value("document.body.innerText")
            time.sleep(0.2)
        assert browser.value("document.querySelectorAll('.bar').length") == 12
        assert browser.value("!at('looks').hidden && at('attention').naturalWidth") == 32
        assert browser.value(OVERFLOWING) == []
        assert browser.complaints() == []
        assert all(url.startswith((address, "data:", "blob:")) for url in browser.requests())
        browser.screenshot(tmp_path / "page.png", whole=True)
    finally:
        browser.close()
