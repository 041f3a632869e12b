"""What every worker does around its calls: read the job, find torch, tell progress, write the result last.

Workers run in their vendor's environment, where edgevit is not installed: they find this file beside their own.
"""

from __future__ import annotations

import importlib.machinery
import json
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Values = dict[str, Any]
BORROWED = {"torch", "torchgen", "functorch", "nvidia", "triton"}  # torch and what its CUDA builds load


class Borrowed:
    """Finds torch, and nothing else, in another environment's folder, after everything installed here.

    The whole folder on sys.path would let the user's packages, and plug-ins that jax looks for, decide what a
    conversion does.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """The import system's question; None for what is not borrowed."""
        if path is not None or name not in BORROWED:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [self.folder])


def torch_from(folder: str | None) -> None:
    """Make torch importable from the folder that holds it; None: the stand-in for it."""
    if folder is None:
        import torch_standin  # type: ignore[import-not-found]  # beside this file; needs the toolchain's numpy

        torch_standin.install()
    else:
        sys.meta_path.append(Borrowed(folder))  # type: ignore[arg-type]  # duck-typed


def step(name: str) -> None:
    """Name the next piece of work, in the event stream and in the log."""
    print(f"edgevit: {name}", flush=True)
    event(stage=name)


def event(**values: object) -> None:
    """Append one line for the parent to read."""
    with Path("events.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(values) + "\n")


def answer(calls: Mapping[str, Callable[..., Values]], clean: Callable[[], None] = lambda: None) -> None:
    """Run the call that request.json in this folder asks for, then `clean`; write result.json.

    Every result states this process's peak memory, `peak_bytes`.
    """
    request = json.loads(Path("request.json").read_text(encoding="utf-8"))
    torch_from(request["borrowed"])
    try:
        if request["call"] not in calls:
            raise ValueError(f"no call named {request['call']!r}")
        found = calls[request["call"]](**request["args"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        result: Values = {"ok": found | {"peak_bytes": peak}}
    except (Exception, SystemExit) as error:  # vendor code may call exit()
        result = {"error": type(error).__name__, "message": str(error)}
    finally:
        clean()
    staging = Path("result.json.part")
    staging.write_text(json.dumps(result), encoding="utf-8")
    staging.replace("result.json")
