"""Files that are whole or absent: hashing and atomic writes."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write; rename it into place on success, remove it on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield staging
        flush_to_disk(staging)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` so that `path` holds either the old content or all of the new one."""
    with atomic_path(path) as staging:
        staging.write_bytes(data.encode() if isinstance(data, str) else data)


def replace_folder(staging: Path, final: Path) -> None:
    """Move a finished folder to its final name, replacing what is there."""
    if final.exists():
        doomed = final.with_name(f".{final.name}.{secrets.token_hex(4)}.old")
        final.rename(doomed)
        staging.rename(final)
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        staging.rename(final)


def flush_to_disk(path: Path) -> None:
    """Force a file's bytes out, so that a rename never publishes a file whose content is still in flight."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(source: Path, destination: Path) -> None:
    """Put a copy of a file under a friendly name, whole or not at all."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.tmp")
    try:
        os.link(source, staging)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, staging)
    staging.replace(destination)
