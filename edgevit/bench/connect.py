"""From what the user calls a board to a way of reaching it."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, ValidationError

from edgevit.bench import adb
from edgevit.bench.host import HostTransport
from edgevit.bench.ssh import SshTransport, control_path
from edgevit.bench.transport import Transport
from edgevit.errors import InputError
from edgevit.files import read_input
from edgevit.targets.profiles import Strict

WAYS = "host, ssh://[user@]host[:port], adb, adb:SERIAL"
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*|[0-9A-Fa-f:]+(%[A-Za-z0-9._-]+)?")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*[$]?")


class KnownBoard(Strict):
    """One entry of the user's boards.toml."""

    address: str = Field(description=WAYS)
    profile: str | None = Field(None, description="a board profile: its name, or the path of its TOML")
    key: Path | None = Field(None, description="private key for ssh")
    work_folder: str | None = Field(None, description="where on the board to work; default: its /tmp")
    python: str = Field("python3", description="the Python there that has the runtimes")
    npu_library: str | None = Field(
        None, description="path there of the NPU's runtime library, if it is unusual"
    )


@dataclass(frozen=True)
class Place:
    """A board as the user named it: its address and what boards.toml says about it."""

    address: str
    profile: str | None = None
    key: Path | None = None
    work_folder: str | None = None
    python: str | None = None
    npu_library: str | None = None


def boards_file() -> Path:
    """Where the user's own boards are listed."""
    return Path(platformdirs.user_config_dir("edgevit")) / "boards.toml"


def locate(where: str) -> Place:
    """What `where` means: an address, or a name from boards.toml. Raises InputError with the nearest name."""
    if where == "host" or where == "adb" or where.startswith(("ssh://", "adb:")):
        return Place(where)
    known = known_boards(boards_file())
    if where in known:
        found = known[where]
        key = found.key.expanduser() if found.key else None
        return Place(**{**found.model_dump(), "key": key})
    near = difflib.get_close_matches(where, known, n=1)
    if near:
        fix = f"Did you mean {near[0]}"
    elif "@" in where or "." in where:
        fix = f"Did you mean ssh://{where}"
    else:
        fix = f"Use {WAYS}, or add [{where}] with an address to {boards_file()}"
    raise InputError(
        f"cannot reach board {where!r}", "it is neither an address nor a name in boards.toml", fix
    )


def known_boards(path: Path) -> dict[str, KnownBoard]:
    """The boards in a file, none if there is no file. Raises InputError naming the entry and the key."""
    from edgevit.targets.profiles import explain, parse_toml

    what = f"{path} is not a valid list of boards"
    if not path.exists():
        return {}
    entries = parse_toml(read_input(path, f"cannot read {path}"), what)
    found = {}
    for name, values in entries.items():
        try:
            found[name] = KnownBoard.model_validate(values)
        except ValidationError as error:
            why, fix = explain(error, KnownBoard)
            raise InputError(what, f"in [{name}], {why}", fix) from None
    return found


def connect(where: str) -> Transport:
    """A way to reach `where`. Raises InputError for what isn't an address, TransportError if adb can't be used."""
    return reach(locate(where))


def reach(place: Place) -> Transport:
    """A way to reach a place; over ssh nothing is tried yet."""
    if place.address == "host":
        return HostTransport()
    if place.address.startswith("ssh://"):
        return ssh(place.address, place.key)
    if place.address == "adb" or place.address.startswith("adb:"):
        return adb.connect(place.address[4:] or None)
    raise InputError(f"cannot reach {place.address!r}", "it is not an address", f"Use {WAYS}")


def ssh(address: str, key: Path | None) -> SshTransport:
    """The parts of ssh://[user@]host[:port]. Raises InputError; a host can't pass for an option of the client."""
    what = f"cannot reach {address!r}"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise InputError(what, str(error).lower(), "Use ssh://[user@]host[:port]") from None
    if parts.password is not None:
        raise InputError(what, "a password can't be given", "Set up a key: ssh-copy-id")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InputError(what, "it goes on after the host", "Use ssh://[user@]host[:port]")
    user, host = parts.username, parts.hostname or ""
    if not HOST.fullmatch(host) or (user is not None and not USER.fullmatch(user)):
        raise InputError(what, "that is no user and host name", "Use ssh://[user@]host[:port]")
    if key is not None and not key.is_file():
        raise InputError(what, f"its key {key} is not there", f"Correct it in {boards_file()}")
    # Names in the user's ssh configuration may have capitals, which urlsplit takes away.
    written = re.search(re.escape(host), address, re.IGNORECASE)
    return SshTransport(written.group() if written else host, user, port, key, control_path(address))
