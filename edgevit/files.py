"""Files that are whole or absent: bounded reading, hashing, atomic writes, no overwriting of inputs."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevit.errors import InputError

MAX_TEXT_BYTES = 64 * 2**20  # of any file that people or edgevit write as text


def refuse_irregular(path: Path, what: str) -> None:
    """Raise InputError, beginning with `what`, for anything but a regular file.

    A pipe or a device may never end.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(what, "no such file", "Check the path") from None
    except (OSError, ValueError) as error:
        raise InputError(what, reason(error), "Check the path") from None
    if stat.S_ISDIR(mode):
        raise InputError(what, "it is a folder", "Give a file")
    if not stat.S_ISREG(mode):
        raise InputError(what, "it is not a regular file", "Save its content to a file and give that")


def read_input(path: Path, what: str) -> bytes:
    """The content of a text file from outside. Raises InputError, beginning with `what`.

    Refused are files that are missing, no regular files, or larger than 64 MiB.
    """
    refuse_irregular(path, what)
    try:
        with path.open("rb") as handle:
            content = handle.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise InputError(what, reason(error), "Check the file") from None
    if len(content) > MAX_TEXT_BYTES:
        raise InputError(
            what, f"it is larger than {MAX_TEXT_BYTES >> 20} MiB", "Check that it is the right file"
        )
    return content


def reason(error: OSError | ValueError) -> str:
    """The operating system's words, lower case, without the path that the message already names."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def refuse_to_overwrite(out: Path, kept: Iterable[Path]) -> None:
    """Raise InputError where writing `out` would replace one of the files in `kept`, by whatever name."""
    for path in kept:
        if out.exists() and path.exists() and out.samefile(path):
            raise InputError(
                f"cannot write {out}",
                f"it is {path}, which would be lost",
                "Choose another name for the result",
            )


def user_cache(name: str) -> Path:
    """A folder of the user's cache, made if it isn't there. Raises InputError where that is impossible."""
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("edgevit")).absolute() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the cache folder {folder}",
            reason(error),
            "Set XDG_CACHE_HOME to a folder you can write",
        ) from None
    return folder


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
