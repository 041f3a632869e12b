"""Whether a machine can take work: the same versions, the toolchains, the shared files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from edgevit.backends.registry import backend_of
from edgevit.errors import EdgevitError, InputError
from edgevit.files import reason
from edgevit.run.step import tool_versions
from edgevit.targets.profiles import Board


@dataclass(frozen=True)
class Needs:
    """What work needs of a machine: `versions` of packages, `tools` of each board, files that must be there.

    `token` is a file of this work alone: a machine that sees it sees the folder that results go to.
    """

    versions: dict[str, str | None]
    boards: tuple[Board, ...]
    tools: tuple[dict[str, str], ...]
    files: tuple[str, ...]
    token: str


@contextmanager
def needs_of(boards: Iterable[Board], files: Iterable[Path], folder: Path) -> Iterator[Needs]:
    """What this machine has, for work on `boards` that reads `files` and writes into `folder`.

    Holds as long as the block: the token is removed with it.
    """
    every, token = tuple(boards), folder.absolute() / f".cluster-{uuid4().hex}"
    try:
        token.touch()
    except OSError as error:
        what = f"cannot share work through {folder}"
        raise InputError(what, reason(error), "Choose a folder that all machines can write to") from None
    try:
        yield from_here(every, files, token)
    finally:
        token.unlink(missing_ok=True)


def from_here(every: tuple[Board, ...], files: Iterable[Path], token: Path) -> Needs:
    """What this machine has."""
    return Needs(
        versions=tool_versions(),
        boards=every,
        tools=tuple(backend_of(board).tools(board) for board in every),
        files=tuple(str(each.absolute()) for each in files),
        token=str(token),
    )


def why_unfit(needs: Needs) -> str | None:
    """None where this machine can take the work; else what it lacks."""
    mine = tool_versions()
    for name, version in needs.versions.items():
        if mine.get(name) != version:
            return f"it has {name} {mine.get(name)}, not {version}"
    for board, tools in zip(needs.boards, needs.tools, strict=True):
        try:
            if (found := backend_of(board).tools(board)) != tools:
                return f"its {board.backend} tools are others ({found}, not {tools})"
        except EdgevitError as error:
            return str(error)
    for file in needs.files:
        if not Path(file).exists():
            return f"it can't see {file}: put it where all machines see it under one path"
    token = Path(needs.token)
    if not token.exists():
        return f"it can't see the folder {token.parent}: choose one that all machines see under one path"
    if not os.access(token.parent, os.W_OK):
        return f"it can't write into {token.parent}"
    return None
