"""The state of a recovery on disk: whole or absent, and only ever resumed by the same recovery."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgevit.errors import InputError
from edgevit.files import write_atomically

FORMAT = 1


def fingerprint(state: Mapping[str, torch.Tensor], images: tuple[torch.Tensor, ...], settings: str) -> str:
    """Hex sha256 of what a recovery starts from: weights, images, settings."""
    digest = hashlib.sha256(settings.encode())
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for tensor in images:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save(path: Path, key: str, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "key": key, "state": state}, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path, key: str) -> dict[str, Any] | None:
    """The state saved by the same recovery, or None where there is no file.

    Raises InputError for a file that is damaged or belongs to another recovery.
    """
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        matches = saved["format"] == FORMAT and saved["key"] == key
        state: dict[str, Any] = saved["state"]
    except Exception as error:  # torch.load raises whatever its parsers do
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise InputError(f"cannot resume from {path}", reason, "Delete the file to start again") from None
    if not matches:
        raise InputError(
            f"cannot resume from {path}",
            "it was saved for another model, other images or other settings",
            "Delete the file to start again",
        )
    return state
