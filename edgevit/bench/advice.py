"""Which board profiles fit what was found, and what is missing there with the command that brings it."""

from __future__ import annotations

from collections.abc import Sequence

from edgevit.backends.registry import backend_of
from edgevit.targets.facts import Facts, Missing, pip
from edgevit.targets.profiles import Board

WORK_MB = 200


def fitting(facts: Facts, boards: Sequence[Board]) -> list[Board]:
    """Profiles for the board: the one its own names identify first, then those any CPU can run."""
    matches = [
        ((len(beginning), board.npu is not None), board)  # an NPU before the cores beside it
        for board in boards
        for beginning in board.compatible
        if any(name.startswith(beginning) for name in facts.compatible)
    ]
    best = max(matches, key=lambda match: match[0])[1] if matches else None
    general = [board for board in boards if not board.compatible and board.npu is None]
    if facts.android:
        general = [board for board in general if backend_of(board).on_board.android]
    return ([best] if best else []) + general


def missing(facts: Facts, boards: Sequence[Board]) -> list[Missing]:
    """What keeps `edgevit bench` from running the given profiles' artefacts there, or makes it run worse."""
    found = [*system(facts)]
    if facts.python is None:
        return [*found, no_python(facts)]
    for backend in {each.backend: backend_of(each) for each in boards}.values():
        found += backend.on_board.needs(facts)
    if "numpy" not in facts.modules:
        found.append(Missing("numpy", "the runner needs it", pip("numpy")))
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
