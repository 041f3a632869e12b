"""One measurement on a board: files there, the runner's words and files back, nothing left behind.

The guard (guard.py) is started first and gets its source as an argument, so that there is no moment in which a
file is on the board and nobody to remove it. Everything else happens while its connection is open.
"""

from __future__ import annotations

import ast
import base64
import json
import posixpath
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgevit.backends import board_runtime
from edgevit.bench.probe import probe
from edgevit.bench.transport import Completed, Transport, TransportError, at_home
from edgevit.progress import Progress
from edgevit.targets.facts import Facts, Missing, pip, with_python

FOLDER = Path(__file__).parent
# What every runner needs; the backend's own runtime.py comes with the artefact.
RUNNER = {"on_board.py": FOLDER / "on_board.py", "board_runtime.py": Path(board_runtime.__file__)}
STEP_SECONDS = 60.0
SPARE_BYTES = 4 << 20
NOT_HERE = 127
FETCHED = ("outputs.npy", "tensors.npz")


@dataclass
class Session:
    """What is to be measured, and what the board has said so far."""

    transport: Transport
    python: str
    files: Mapping[str, Path]
    request: dict[str, Any]
    out: Path
    progress: Progress
    install: Callable[[Facts], Missing]
    work: str = ""
    note: str = ""
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    ended: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    def hear(self, line: str) -> None:
        """Act on one line. What isn't JSON is the system's chatter."""
        try:
            said = json.loads(line)
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        for key, act in self.acts().items():
            if key in said:
                act(said)

    def acts(self) -> dict[str, Callable[[dict[str, Any]], None]]:
        """What is done about each kind of line."""
        return {
            "refused": self.refuse_folder,
            "hello": self.send,
            "progress": self.show,
            "warning": lambda said: self.warn(str(said["warning"])),
            "result": lambda said: setattr(self, "result", said["result"]),
            "error": lambda said: setattr(self, "error", said["error"]),
            "ended": self.fetch,
        }

    def refuse_folder(self, said: dict[str, Any]) -> None:
        """The guard could not make its folder."""
        raise TransportError(
            f"cannot work in {said['folder']} on {self.transport.name}",
            str(said["refused"]).lower(),
            "Give another work_folder in boards.toml",
        )

    def send(self, said: dict[str, Any]) -> None:
        """Copy everything and start the runner."""
        self.work = str(said["hello"])
        needed = sum(path.stat().st_size for path in self.files.values()) + SPARE_BYTES
        if needed > said["free"]:
            raise TransportError(
                f"not enough room on {self.transport.name}",
                f"{posixpath.dirname(self.work)} has {said['free'] >> 20} MB free and {needed >> 20} MB are needed",
                "Make room, use fewer --images, or give another work_folder in boards.toml",
            )
        if said["others"]:
            self.warn(
                f"another edgevit bench is under way on {self.transport.name}: each disturbs the other's times"
            )
        small = {name: path for name, path in self.files.items() if name.endswith(".py")}
        with tempfile.TemporaryDirectory(prefix="edgevit-") as folder:
            request = Path(folder) / "request.json"
            request.write_text(json.dumps(self.request), encoding="utf-8")
            self.push({**RUNNER, **small, "request.json": request})
        self.ask_whether_ready()
        self.progress.stage(f"copy {max(1, needed - SPARE_BYTES >> 20)} MB to {self.transport.name}")
        self.push({name: path for name, path in self.files.items() if name not in small})
        self.progress.stage(f"measure {self.request['title']} on {self.transport.name}")
        self.expect(["mkdir", posixpath.join(self.work, "go")])

    def push(self, files: Mapping[str, Path]) -> None:
        """Copy files into the work folder, by their names there."""
        for name, path in files.items():
            self.transport.push(path, posixpath.join(self.work, name))

    def ask_whether_ready(self) -> None:
        """What is missing there is said before megabytes are copied."""
        words = [posixpath.join(self.work, name) for name in ("on_board.py", "request.json")]
        done = self.transport.run([self.python, *words, "ready"], timeout_s=STEP_SECONDS)
        for line in done.out.splitlines():
            with suppress(ValueError):
                error = json.loads(line).get("error")
                if error is not None:
                    raise refused(self, error)

    def show(self, said: dict[str, Any]) -> None:
        """Progress of the runner."""
        done, total, note = said["progress"]
        self.progress.advance(int(done), int(total), str(note))

    def warn(self, text: str) -> None:
        """Something the user should read."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.progress.warn(text)

    def fetch(self, said: dict[str, Any]) -> None:
        """The runner has ended and the clocks are back: get its files, let the guard go."""
        self.ended = said
        if said["not_restored"]:
            self.warn(f"could not restore {', '.join(said['not_restored'])} on {self.transport.name}")
        if self.result is not None:
            wanted = {FETCHED[0]: self.result.get("images"), FETCHED[1]: self.result.get("tensors")}
            for name in (name for name, made in wanted.items() if made):
                self.transport.pull(posixpath.join(self.work, name), self.out / name)
        self.expect(["rm", "-rf", self.work])

    def expect(self, argv: Sequence[str]) -> None:
        """Run a command that must work."""
        done = self.transport.run(argv, timeout_s=STEP_SECONDS)
        if done.code != 0:
            words = (done.err or done.out).strip().splitlines() or [f"exit code {done.code}"]
            raise TransportError(
                f"cannot work on {self.transport.name}", words[-1].rstrip("."), "Check its disk and load"
            )


def measure(
    transport: Transport,
    files: Mapping[str, Path],
    request: dict[str, Any],
    out: Path,
    progress: Progress,
    *,
    install: Callable[[Facts], Missing],
    python: str = "python3",
    work_folder: str | None = None,
    limit_s: float = 3600.0,
) -> dict[str, Any]:
    """Run on_board.py with `request` and `files` (name there: path here) on a board; return its result.

    Its outputs.npy and tensors.npz, if it made them, are copied into `out`. Raises TransportError with one line
    for everything that can be wrong there, with `install` for a missing runtime; clocks are put back and the
    work folder is removed in any case.
    """
    python, work_folder = at_home(transport, python), work_folder and at_home(transport, work_folder)
    session = Session(transport, python, files, request, out, progress, install)
    asked = {"base": work_folder, "limit_s": limit_s, "pulses": bool(getattr(transport, "pulses", False))}
    argv = [python, "-c", launcher(), json.dumps(asked)]
    done = transport.stream(argv, timeout_s=limit_s, on_line=session.hear)
    if session.result is None:
        raise failure(session, done)
    session.result["warnings"] = [*session.result["warnings"], *session.warnings]
    return session.result


def launcher() -> str:
    """The guard's source as one argument: compressed, since old adb daemons take lines of 4 KB."""
    tree = ast.parse((FOLDER / "guard.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Module) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    packed = base64.b64encode(zlib.compress(ast.unparse(tree).encode(), 9)).decode()
    return f"import base64,zlib;exec(zlib.decompress(base64.b64decode('{packed}')))"


def failure(session: Session, done: Completed) -> TransportError:
    """The one line for a session without a result."""
    where, error, ended = session.transport.name, session.error, session.ended
    if not session.work:
        return no_start(session, done)
    if error is not None:
        return refused(session, error)
    if ended is None:
        return TransportError(
            f"lost {where}",
            "the connection broke off while it was measuring",
            "Check power and network, then run the command again; the board cleans up by itself",
        )
    code = int(ended["ended"])
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    memory = "; signal 9 often means out of memory" if code == -9 else ""
    log = str(ended["log"])
    lines = [line.strip() for line in str(ended["log"]).splitlines() if line.strip()]
    last = f", last words: {lines[-1][:300]}" if lines else ""
    fix = f"Check that the runtime there works: edgevit boards probe {where}"
    if "No space left" in log:
        fix = "Make room there, use fewer --images, or give another work_folder in boards.toml"
    elif code == -9 or "MemoryError" in log or "Cannot allocate memory" in log:
        fix = "Free memory there, or choose a smaller artefact"
    return TransportError(f"the runner on {where} {how}", f"no result{memory}{last}", fix)


def no_start(session: Session, done: Completed) -> TransportError:
    """The guard didn't even say hello: most often there is no Python."""
    where = session.transport.name
    words = (done.err or done.out).strip().splitlines()
    if done.code in (NOT_HERE, 126):
        return TransportError(
            f"cannot measure on {where}",
            f"there is no {session.python}",
            "Install it there (Debian, Ubuntu: sudo apt-get install python3 python3-venv), or name another with "
            "python in boards.toml",
        )
    why = words[-1].rstrip(".")[:300] if words else f"exit code {done.code}"
    return TransportError(
        f"cannot measure on {where}",
        f"its {session.python} does not start the runner ({why})",
        "Python 3.7 or later is needed there",
    )


def refused(session: Session, error: dict[str, Any]) -> TransportError:
    """What the runner said it can't do, with the command that helps."""
    where = session.transport.name
    if "missing" in error:
        what, fix = missing(session, str(error["missing"]))
        why = str(error["why"]).rstrip(".")
        told = "" if why.startswith("No module named") else f" ({why})"
        return TransportError(f"cannot measure on {where}", f"{what} is not installed there{told}", fix)
    if error.get("clocks") == "permission":
        fix = "Log in as root, let this user run sudo without a password, or leave --pin-clocks out"
        return TransportError(f"cannot pin the clocks of {where}", error["why"], fix)
    if error.get("clocks"):
        fix = "Check that the profile is this board's (edgevit boards probe), or leave --pin-clocks out"
        return TransportError(f"cannot pin the clocks of {where}", error["why"], fix)
    fix = str(error.get("fix") or f"Run: edgevit boards probe {where}")
    return TransportError(f"cannot measure on {where}", str(error["why"]).rstrip("."), fix)


def missing(session: Session, package: str) -> tuple[str, str]:
    """What is missing, the artefact's "runtime" or "numpy", and the command that brings it to this board."""
    if package == "runtime":
        lack = session.install(probe(session.transport, python=session.python))
        what, fix = lack.what, lack.fix
    else:
        what, fix = package, pip(package)
    if session.python != "python3":
        fix = with_python(fix, session.python)
    return what, fix.rstrip(".")
