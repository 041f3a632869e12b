"""What the probe finds on made-up boards, which profile fits, and what it says is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgevit.backends.rknn.backend import RKNN
from edgevit.backends.rknn.rknn_api import LIBRARIES
from edgevit.bench import advice
from edgevit.bench.host import HostTransport
from edgevit.bench.probe import Facts, probe, python_of
from edgevit.bench.transport import Completed, TransportError, at_home
from edgevit.targets.profiles import load_board, shipped

ROOTS = re.compile(r"(?<![\w.])/(?=(?:proc|sys|dev/rknpu|usr/lib|usr/lib64|etc|vendor|oem)\b)")
SHELLS = [[shell] for shell in ("dash", "bash") if shutil.which(shell)]
SHELLS += [["busybox", "sh"]] if shutil.which("busybox") else []


class Tree:
    """A board made of files: commands run here with /proc, /sys and so on under `root`."""

    name = "ssh://board"

    def __init__(
        self, root: Path, python: dict[str, object] | None = None, shell: list[str] | None = None
    ) -> None:
        self.root, self.python, self.shell = root, python, shell or ["sh"]

    def write(self, path: str, text: str) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def run(self, argv: list[str], *, timeout_s: float, stdin: str = "") -> Completed:
        if argv[0].startswith("python"):
            return (
                Completed(0, json.dumps(self.python), "") if self.python else Completed(127, "", "not found")
            )
        script = ROOTS.sub(f"{self.root}/", argv[2])
        done = subprocess.run([*self.shell, "-c", script], capture_output=True, text=True, timeout=timeout_s)
        return Completed(done.returncode, done.stdout, done.stderr)


def rock5b(root: Path, shell: list[str] | None = None) -> Tree:
    modules = {"rknn-toolkit-lite2": "2.5.0", "numpy": "1.26.4"}
    board = Tree(root, {"python": "3.11.2", "bits": 64, "modules": modules}, shell)
    board.write("/proc/device-tree/model", "Radxa ROCK 5B\0")
    board.write("/proc/device-tree/compatible", "radxa,rock-5b\0rockchip,rk3588\0")
    board.write("/proc/cpuinfo", "processor\t: 0\nBogoMIPS : 48\n\nprocessor\t: 1\n")
    board.write("/proc/meminfo", "MemTotal:        8125812 kB\nMemFree: 1 kB\n")
    board.write("/sys/kernel/debug/rknpu/version", "RKNPU driver: v0.9.8\n")
    board.write("/sys/class/devfreq/fdab0000.npu/cur_freq", "300000000\n")
    board.write("/usr/lib/librknnrt.so", "\0\0librknnrt version: 2.3.2 (429f97ae6b@2025-04-09)\0")
    board.write("/etc/os-release", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    return board


def facts_of(**changes: object) -> Facts:
    plain: dict[str, object] = {
        "where": "ssh://board",
        "model": "Board",
        "compatible": (),
        "machine": "aarch64",
        "bits": 64,
        "cpu": "",
        "cores": 4,
        "memory_mb": 4000,
        "kernel": "6.1.0",
        "os": "Debian",
        "android": None,
        "npu_driver": None,
        "npu_node": None,
        "npu_library": None,
        "npu_library_version": None,
        "python": "3.11.2",
        "modules": {},
        "may_pin_clocks": True,
        "tmp_free_mb": 5000,
    }
    return Facts(**{**plain, **changes})  # type: ignore[arg-type]


def boards(*names: str) -> list[object]:
    return [load_board(name) for name in names]


def test_this_machine_has_shells_to_try() -> None:
    assert SHELLS


@pytest.mark.parametrize("shell", SHELLS, ids=lambda words: words[0])
def test_a_rockchip_board_is_read_from_its_own_files(tmp_path: Path, shell: list[str]) -> None:
    facts = probe(rock5b(tmp_path, shell))
    assert facts.model == "Radxa ROCK 5B"
    assert facts.compatible == ("radxa,rock-5b", "rockchip,rk3588")
    assert (facts.cores, facts.memory_mb) == (2, 7935)
    assert (facts.npu_driver, facts.npu_library_version) == ("0.9.8", "2.3.2")
    assert facts.os == "Debian GNU/Linux 12 (bookworm)"
    assert facts.python == "3.11.2"
    assert facts.modules["rknn-toolkit-lite2"] == "2.5.0"


def test_an_empty_board_gives_unknowns_not_errors(tmp_path: Path) -> None:
    facts = probe(Tree(tmp_path))
    assert (facts.model, facts.compatible, facts.npu_driver, facts.npu_library) == ("unknown", (), None, None)
    assert (facts.python, facts.memory_mb, facts.cores) == (None, None, None)


def test_a_shell_that_does_not_answer_is_one_line() -> None:
    class Broken:
        name = "ssh://board"

        def run(self, argv: list[str], *, timeout_s: float, stdin: str = "") -> Completed:
            return Completed(1, "", "This account is\nnot available.")

    with pytest.raises(TransportError) as caught:
        probe(Broken())
    assert str(caught.value) == (
        "cannot look at ssh://board: its shell did not answer (This account is not available.). "
        "Log in by hand and check that sh works."
    )


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (("radxa,rock-5b", "rockchip,rk3588"), "rk3588"),
        (("rockchip,rk3588s-orangepi-5", "rockchip,rk3588"), "rk3588"),
        (("pine64,quartz64-a", "rockchip,rk3566"), "rk3566"),
        (("rockchip,rv1106b-evb", "rockchip,rv1106b"), "rv1106b"),
        (("luckfox,pico", "rockchip,rv1103"), "rv1103"),
        (("raspberrypi,5-model-b", "brcm,bcm2712"), "raspberrypi5"),
        (("raspberrypi,400", "brcm,bcm2711"), "raspberrypi4"),
        (("android,arm64-v8a",), "android-arm64"),
        (("hardkernel,odroid-m1", "rockchip,rk3568"), "rk3568"),
        (("friendlyarm,nanopc-t4", "rockchip,rk3399"), "onnx"),
        ((), "onnx"),
    ],
)
def test_the_profile_named_by_the_board_comes_first(names: tuple[str, ...], first: str) -> None:
    found = advice.fitting(facts_of(compatible=names), [load_board(name) for name in shipped("boards")])
    assert found[0].id == first
    assert {"onnx", "tflite"} <= {board.id for board in found}


def test_every_profile_of_a_board_says_how_it_is_identified() -> None:
    general = {"onnx", "tflite"}
    silent = [name for name in shipped("boards") if not load_board(name).compatible and name not in general]
    assert silent == []


def test_a_ready_board_lacks_nothing() -> None:
    facts = facts_of(
        npu_driver="0.9.8",
        npu_library="/usr/lib/librknnrt.so",
        npu_library_version="2.5.0",
        modules={"numpy": "2.3.0", "ai-edge-litert": "2.3.0", "onnxruntime": "1.20.0"},
    )
    assert advice.missing(facts, boards("rk3588", "tflite", "onnx")) == []


def test_a_bare_rockchip_board_is_told_what_to_install() -> None:
    lacks = advice.missing(facts_of(may_pin_clocks=False), boards("rk3588"))
    assert [lack.what for lack in lacks] == [
        "the NPU driver (rknpu)",
        "librknnrt.so",
        "numpy",
        "root or sudo without a password",
    ]
    assert "python3 -m venv ~/edgevit && ~/edgevit/bin/python -m pip install numpy" in lacks[2].fix
    assert 'python = "~/edgevit/bin/python" for it in boards.toml' in lacks[2].fix


@pytest.mark.parametrize(
    ("driver", "told"), [("0.9.6", True), ("0.8.2", True), ("0.9.7", False), ("0.10.0", False)]
)
def test_an_old_npu_driver_is_named(driver: str, told: bool) -> None:
    whats = [lack.what for lack in advice.missing(facts_of(npu_driver=driver), boards("rk3588"))]
    assert ("a newer NPU driver" in whats) is told


@pytest.mark.parametrize(
    ("machine", "bits", "python", "what", "fix"),
    [
        ("aarch64", 64, "3.11.2", "ai-edge-litert", "pip install ai-edge-litert"),
        ("aarch64", 64, "3.13.1", "ai-edge-litert", "pip install ai-edge-litert"),
        ("aarch64", 64, "3.9.2", "tflite-runtime", "pip install tflite-runtime 'numpy<2'"),
        ("armv7l", 32, "3.11.2", "tflite-runtime", "pip install tflite-runtime"),
        ("aarch64", 32, "3.11.2", "tflite-runtime", "pip install tflite-runtime"),
        ("armv7l", 32, "3.13.1", "a LiteRT package", "Use a 64-bit system"),
    ],
)
def test_the_litert_package_that_exists_is_named(
    machine: str, bits: int, python: str, what: str, fix: str
) -> None:
    facts = facts_of(machine=machine, bits=bits, python=python)
    [lack] = [
        lack
        for lack in advice.missing(facts, boards("tflite"))
        if "artefacts" in lack.why or "LiteRT" in lack.what
    ]
    assert lack.what == what
    assert fix in lack.fix


def test_a_board_needs_no_wheel_of_the_vendor_whatever_its_python() -> None:
    for version in ("3.7.3", "3.11.2", "3.13.5"):
        whats = [lack.what for lack in advice.missing(facts_of(python=version), boards("rk3588"))]
        assert not [what for what in whats if "lite2" in what]


def test_the_wheel_is_named_only_where_the_library_is_there_and_cannot_be_used() -> None:
    assert RKNN.on_board.install(facts_of()).what == "librknnrt.so"
    there = facts_of(npu_library="/usr/lib/librknnrt.so", python="3.13.5")
    lack = RKNN.on_board.install(there)
    assert lack.what == "rknn-toolkit-lite2"
    assert lack.fix == (
        "It exists for Python 3.7 to 3.12, and this is 3.13.5; copy a library that can be used"
    )


def test_the_runner_looks_for_the_library_where_the_probe_does() -> None:
    for path in LIBRARIES:
        assert path in RKNN.on_board.probe


@pytest.mark.parametrize("version", ["3.7.16", "3.13.0"])
def test_old_and_new_pythons_tell_their_version_and_packages(version: str) -> None:
    python = Path.home() / ".pyenv" / "versions" / version / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no Python {version} here")
    found = python_of(HostTransport(), str(python))
    assert found["python"] == version
    assert isinstance(found["modules"], dict)


def test_a_tilde_is_the_boards_home(tmp_path: Path) -> None:
    class Board:
        name = "ssh://board"

        def run(self, argv: list[str], *, timeout_s: float, stdin: str = "") -> Completed:
            assert argv == ["sh", "-c", 'printf %s "$HOME"']
            return Completed(0, "/home/it's me", "")

    assert at_home(Board(), "~/edgevit/bin/python") == "/home/it's me/edgevit/bin/python"
    assert at_home(Board(), "python3") == "python3"
    assert at_home(Board(), "/opt/~/python") == "/opt/~/python"


def test_a_phone_is_pointed_to_benchmark_model() -> None:
    [lack] = advice.missing(facts_of(android="15", python=None), boards("android-arm64"))
    assert lack.what == "Python"
    assert "--benchmark-model" in lack.fix


def test_a_32_bit_system_on_a_64_bit_board_is_named() -> None:
    whats = [lack.what for lack in advice.missing(facts_of(bits=32), boards("tflite"))]
    assert "a 64-bit system" in whats


def test_a_library_older_than_the_toolkit_is_named() -> None:
    facts = facts_of(npu_driver="0.9.8", npu_library="/usr/lib/librknnrt.so", npu_library_version="2.3.2")
    [lack] = [each for each in advice.missing(facts, boards("rk3588")) if "librknnrt" in each.what]
    assert lack.why == (
        "2.3.2 is older than the toolkit of the artefacts (2.5.0): it may refuse or misread them"
    )
    assert lack.fix.endswith(", or convert with --toolkit rknn@2.3.2")
