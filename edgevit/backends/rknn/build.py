"""Builds of rknn-toolkit2 that outlive its fusion rules.

A rule that dies on a model is switched off and the build tried again, each time in a fresh process, until it
builds or fails for another reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.errors import ToolchainError
from edgevit.progress import Progress
from edgevit.toolchains import releases
from edgevit.toolchains.call import run_job

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NOT_IN_TORCH = re.compile(r"^edgevit: no torch here has (\S+)$", re.MULTILINE)
SUGGESTION = re.compile(r"disable_rules=\[([^\]]*)\]")


@dataclass(frozen=True)
class Build:
    """What the worker returned, the log it wrote, the fusion rules switched off to get there."""

    result: dict[str, Any]
    log: str
    disabled_rules: tuple[str, ...]


def build(
    toolchain: str, call: str, arguments: dict[str, Any], jobs: Path, progress: Progress, timeout_s: float
) -> Build:
    """Run a worker's call that compiles, again without each rule that died, as long as the toolkit names new ones.

    Rules that `arguments` leave out are left out in every attempt.

    Each attempt has a folder with its log. Raises the ToolchainError of the last one.
    """
    left_out, disabled = list(arguments.get("disable_rules", ())), list[str]()
    while True:
        job = jobs / f"build-{len(disabled)}"
        try:
            attempt = arguments | {"disable_rules": [*left_out, *disabled]}
            result = run_job(toolchain, call, attempt, job, progress=progress, timeout_s=timeout_s)
        except ToolchainError as error:
            log = read_log(job)
            rules = [rule for rule in rules_to_disable(log) if rule not in disabled]
            if not rules:
                raise or_another_release(error, toolchain) if log else error from None
            lacking = NOT_IN_TORCH.findall(log)
            why = f" (edgevit gives it no torch.{lacking[-1]}: please report that)" if lacking else ""
            progress.warn(
                f"the toolkit's {' and '.join(rules)} fails on this model{why}; building without it"
            )
            disabled = [*disabled, *rules]
        else:
            return Build(result, read_log(job), tuple(disabled))


def or_another_release(error: ToolchainError, toolchain: str) -> ToolchainError:
    """A build's failure with the toolkit's other releases as something to try."""
    options = " or ".join(f"--toolkit {release}" for release in releases.others(toolchain))
    return type(error)(error.what, error.why, f"{error.fix}, or try another release: {options}")


def rules_to_disable(log: str) -> list[str]:
    """Fusion rules that the toolkit itself suggests to switch off, in the order it names them."""
    names = [name for text in SUGGESTION.findall(log) for name in re.findall(r"\w+", text)]
    return list(dict.fromkeys(names))


def read_log(job: Path) -> str:
    """A job's log without terminal colours; empty if the worker never started."""
    path = job / "log.txt"
    return COLOUR.sub("", path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else ""
