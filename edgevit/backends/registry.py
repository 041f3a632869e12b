"""Every backend, by name and by the suffix of its artefacts. Nothing else compares a backend's name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgevit.backends.litert.backend import LITERT
from edgevit.backends.onnxruntime.backend import ONNXRUNTIME
from edgevit.backends.protocol import Backend
from edgevit.backends.rknn.backend import RKNN
from edgevit.errors import InputError
from edgevit.targets.profiles import Board, load_board

_BACKENDS: dict[str, Backend] = {each.name: each for each in (LITERT, ONNXRUNTIME, RKNN)}


def backends() -> tuple[Backend, ...]:
    """Every backend, by name."""
    return tuple(_BACKENDS[name] for name in sorted(_BACKENDS))


def backend_of(board: Board) -> Backend:
    """The backend that a board profile names. Raises InputError with the nearest name."""
    if board.backend in _BACKENDS:
        return _BACKENDS[board.backend]
    raise InputError(
        f"the board {board.id} cannot be used",
        f"there is no backend {board.backend!r}",
        rename(board.backend, list(_BACKENDS)),
    )


def load_target(name: str) -> Board:
    """A board profile by name or by path whose backend there is. Raises InputError with the nearest name."""
    board = load_board(name)
    backend_of(board)
    return board


def by_suffix(artefact: Path | str) -> Backend | None:
    """The backend whose artefacts have a file's suffix; None where there is none."""
    return next((each for each in backends() if each.suffix == Path(artefact).suffix), None)


def check_options(options: Mapping[str, Mapping[str, Any]], what: str) -> None:
    """Raise InputError, beginning with `what`, for options that no backend has, or with values it doesn't take."""
    for name in options:
        if name not in _BACKENDS:
            raise InputError(what, f"options.{name}: there is no such backend", rename(name, list(_BACKENDS)))
        _BACKENDS[name].options_of(options, what)


@contextmanager
def registered(backend: Backend) -> Iterator[None]:
    """One more backend for as long as the context lasts: an extension's, or a test's."""
    before = _BACKENDS.get(backend.name)
    _BACKENDS[backend.name] = backend
    try:
        yield
    finally:
        if before is None:
            del _BACKENDS[backend.name]
        else:
            _BACKENDS[backend.name] = before


def rename(name: str, names: list[str]) -> str:
    """What to do about a name that there isn't."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"Rename it to {near[0]}" if near else f"Choose from {', '.join(sorted(names))}"
