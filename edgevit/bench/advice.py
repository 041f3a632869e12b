"""Which board profiles fit what was found, and what is missing there with the command that brings it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from edgevit.bench.probe import Facts
from edgevit.targets.profiles import Board
from edgevit.toolchains import environment

RUNTIME_SITE = "https://github.com/airockchip/rknn-toolkit2"
# airockchip/rknn-toolkit2 issue 378: with 0.9.6, toolkit 2.3 models with softmax fail ("failed to submit").
OLDEST_GOOD_DRIVER = (0, 9, 7)
WORK_MB = 200


@dataclass(frozen=True)
class Missing:
    """Something the board lacks: what, why it matters, how to get it."""

    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}. {self.fix}"

    def to_json(self) -> dict[str, str]:
        """Plain values for scripts."""
        return asdict(self)


def fitting(facts: Facts, boards: Sequence[Board]) -> list[Board]:
    """Profiles for the board: the one its own names identify first, then those any CPU can run."""
    matches = [
        (len(beginning), board)
        for board in boards
        for beginning in board.compatible
        if any(name.startswith(beginning) for name in facts.compatible)
    ]
    best = max(matches, key=lambda match: match[0])[1] if matches else None
    general = [board for board in boards if not board.compatible and board.npu is None]
    if facts.android:
        general = [board for board in general if board.backend == "litert"]
    return ([best] if best else []) + general


def missing(facts: Facts, boards: Sequence[Board]) -> list[Missing]:
    """What keeps `edgevit bench` from running the given profiles' artefacts there, or makes it run worse."""
    found = [*system(facts)]
    backends = dict.fromkeys(board.backend for board in boards)
    if facts.python is None:
        return [*found, no_python(facts)]
    if "rknn" in backends:
        found += rknn(facts)
    if "litert" in backends:
        found += litert(facts)
    if "onnxruntime" in backends and "onnxruntime" not in facts.modules:
        found.append(Missing("onnxruntime", "it runs .onnx artefacts", pip(facts, "onnxruntime")))
    if not facts.may_pin_clocks and any(board.clocks for board in boards):
        found.append(
            Missing(
                "root or sudo without a password",
                "clocks can't be pinned, so timings vary",
                "Log in as root, or let this user run sudo without a password",
            )
        )
    return found


def system(facts: Facts) -> list[Missing]:
    """What the system itself lacks."""
    found = []
    if facts.machine == "aarch64" and facts.bits == 32:
        found.append(
            Missing(
                "a 64-bit system",
                "its 64-bit processor runs a 32-bit one, for which runtimes are old or absent",
                "Install the 64-bit image of the same system",
            )
        )
    if facts.tmp_free_mb is not None and facts.tmp_free_mb < WORK_MB:
        found.append(
            Missing(
                f"{WORK_MB} MB of room in the temporary folder",
                f"{facts.tmp_free_mb} MB are free",
                "Make room, or give another work folder in boards.toml",
            )
        )
    return found


def no_python(facts: Facts) -> Missing:
    """Without Python only LiteRT's own binary can measure."""
    if facts.android:
        return Missing(
            "Python",
            "Android has none, so accuracy can't be measured there",
            "Measure latency: edgevit bench RUN --board adb --benchmark-model PATH",
        )
    return Missing(
        "Python 3", "the runner needs it", "On Debian and Ubuntu: sudo apt-get install python3 python3-venv"
    )


def rknn(facts: Facts) -> list[Missing]:
    """What .rknn artefacts need: driver, library, Python package."""
    found = []
    if facts.npu_driver is None and facts.npu_node is None:
        found.append(
            Missing(
                "the NPU driver (rknpu)",
                f"kernel {facts.kernel} has none; mainline kernels have another driver that can't run .rknn files",
                "Boot the board vendor's image (kernel 5.10 or 6.1 with rknpu)",
            )
        )
    elif facts.npu_driver and version(facts.npu_driver) < OLDEST_GOOD_DRIVER:
        found.append(
            Missing(
                "a newer NPU driver",
                f"{facts.npu_driver} is known to fail on softmax with runtimes from 2.3 on",
                "Update the board vendor's image (rknpu 0.9.7 or later)",
            )
        )
    found += library(facts)
    if "rknn-toolkit-lite2" not in facts.modules:
        found.append(Missing("rknn-toolkit-lite2", "it runs .rknn artefacts", lite(facts)))
    return found


def library(facts: Facts) -> list[Missing]:
    """The runtime library, at least as new as the toolkit that makes the artefacts."""
    toolkit = environment.title("rknn").split()[-1]
    copy = f"Copy rknpu2/runtime/Linux/librknn_api/aarch64/librknnrt.so of {RUNTIME_SITE} to /usr/lib"
    if facts.npu_library is None:
        return [Missing("librknnrt.so", "it runs .rknn artefacts", copy)]
    have = facts.npu_library_version
    if have and version(have) < version(toolkit):
        why = f"{have} is older than the toolkit of the artefacts ({toolkit}): it may refuse or misread them"
        return [Missing("a newer librknnrt.so", why, f"{copy}, if it has that release")]
    return []


def lite(facts: Facts) -> str:
    """How to get rknn-toolkit-lite2: wheels exist for 64-bit Arm and Python 3.7 to 3.12."""
    if facts.machine != "aarch64":
        return f"It exists only for 64-bit Arm Linux, and this is {facts.machine}; use the C API there"
    if facts.python and version(facts.python)[:2] > (3, 12):
        return f"It exists for Python 3.7 to 3.12, and this is {facts.python}; install one of those"
    return pip(facts, "rknn-toolkit-lite2")


def litert(facts: Facts) -> list[Missing]:
    """What .tflite artefacts need: the new package, or the frozen one where that has no wheel."""
    if {"ai-edge-litert", "tflite-runtime"} & set(facts.modules):
        return []
    why = "it runs .tflite artefacts"
    python = version(facts.python or "0")[:2]
    if facts.machine in {"aarch64", "x86_64"} and facts.bits != 32 and python >= (3, 10):
        return [Missing("ai-edge-litert", why, pip(facts, "ai-edge-litert"))]
    if python <= (3, 11):
        return [Missing("tflite-runtime", why, pip(facts, "tflite-runtime", "numpy<2"))]
    return [
        Missing(
            "a LiteRT package",
            f"there is none for {facts.machine} with Python {facts.python}",
            "Use a 64-bit system, or measure latency with --benchmark-model",
        )
    ]


def pip(facts: Facts, *packages: str) -> str:
    """The command that installs packages where edgevit's runner finds them."""
    words = " ".join(f"'{name}'" if "<" in name else name for name in packages)
    return f"On the board: python3 -m pip install {words} (in a virtual environment where the system refuses)"


def version(text: str) -> tuple[int, ...]:
    """A dotted version as numbers, up to the first part that isn't one."""
    numbers = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
