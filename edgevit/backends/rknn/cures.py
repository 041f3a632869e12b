"""What mends a build that computes something else: the cheapest that is enough to leave out, and a memory of it."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from edgevit.backends.proof import REPAIR_SECONDS, Verdict, smallest_cause
from edgevit.errors import InputError
from edgevit.files import user_cache, write_atomically
from edgevit.placement.estimate import Cost

APPLIED = re.compile(r"^D +(\w+): remove node = ", re.MULTILINE)
LEVELS = (2, 1, 0)  # of optimization, below the toolkit's own
FREE = 1.005  # times what the build as it was costs, from which on another cure is looked for
MEMORY = "cures"


@dataclass(frozen=True)
class Cure:
    """Fusion rules to leave out, or the optimization level to stay at."""

    rules: tuple[str, ...] = ()
    level: int | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """Its names for people."""
        return self.rules if self.level is None else (f"optimization beyond level {self.level}",)

    def of(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """A build's arguments with it."""
        if self.level is None:
            return {**arguments, "disable_rules": [*arguments.get("disable_rules", ()), *self.rules]}
        return {**arguments, "config": {**arguments.get("config", {}), "optimization_level": self.level}}

    def options(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The backend's options that say so, those of the arguments included."""
        if self.level is None:
            return {"disable_rules": self.of(arguments)["disable_rules"]}
        return {"optimization_level": self.level}


Trial = Callable[[Cure, str], tuple[Verdict, Cost]]  # and what it costs


def find(
    log: str,
    cost: Cost,
    trial: Trial,
    guesses: Iterable[tuple[Cure, str]] = (),
    *,
    seconds: float = REPAIR_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Cure | None:
    """The cheapest cure; `log` names the rules that a build of this `cost` applied, () where it was not made.

    `guesses` are tried first, in turn, each with where it is from. Where the smallest set of rules that mends the
    build costs more than it did, others are looked for as long as there is time; then lower optimization levels.
    """
    deadline, costs = clock() + seconds, dict[tuple[str, ...], Cost]()
    for guess, source in guesses:
        if trial(guess, f"without {' and '.join(guess.left_out)}, as {source}")[0] == "right":
            return guess

    def attempt(rules: tuple[str, ...]) -> Verdict:
        verdict, costs[rules] = trial(Cure(rules), f"without {len(rules)} rules")
        return verdict

    names, found = applied(log), list[tuple[str, ...]]()
    while names and clock() < deadline:
        cause = smallest_cause(names, attempt, seconds=deadline - clock(), clock=clock)
        if cause is None:
            break
        found.append(cause)
        if not cost or costs[cause] <= tuple(FREE * each for each in cost):
            break
        names = [name for name in names if name not in cause]
    if found:
        return Cure(min(found, key=lambda rules: (costs[rules], len(rules))))
    for level in LEVELS:
        if trial(Cure(level=level), f"at optimization level {level}")[0] == "right":
            return Cure(level=level)
    return None


def applied(log: str) -> list[str]:
    """The rules that a build applied, in the order in which its verbose log names them first."""
    return list(dict.fromkeys(APPLIED.findall(log)))


def fingerprint(graph: Path, *others: str) -> str:
    """What a graph is without its weights and names, and the toolkit and platform it is built by (`others`)."""
    model = onnx.load(graph).graph
    numbers: dict[str, int] = {}
    shapes = [[each.data_type, list(each.dims)] for each in model.initializer]
    nodes = [
        [
            node.op_type,
            [numbers.setdefault(name, len(numbers)) for name in (*node.input, *node.output)],
            sorted(str(each) for each in node.attribute if each.type != onnx.AttributeProto.TENSOR),
        ]
        for node in model.node
    ]
    return hashlib.sha256(json.dumps([shapes, nodes, others]).encode()).hexdigest()


def recall(key: str) -> Cure | None:
    """What mended a graph of this fingerprint before; None where nothing readable is kept."""
    try:
        kept = json.loads((user_cache(MEMORY) / f"{key}.json").read_text(encoding="utf-8"))
        level = kept["level"]
        return Cure(tuple(map(str, kept["rules"])), None if level is None else int(level))
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return None


def remember(key: str, cure: Cure) -> None:
    """Keep what mended a graph for the next one of this fingerprint, where the user's cache can be written."""
    try:
        write_atomically(user_cache(MEMORY) / f"{key}.json", json.dumps(asdict(cure)))
    except (InputError, OSError):
        return
