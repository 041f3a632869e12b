"""Boards behind the OpenSSH client: the user's configuration, agent, jump hosts and known hosts apply.

Files go through `cat` rather than sftp: small images (dropbear) have no sftp server. Arguments are quoted for the
board's shell; edgevit never answers a question, so keys must be set up and the host known.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgevit.bench.process import TIED, converse
from edgevit.bench.transport import Completed, TransportError

OWN_FAULT = 255  # the client's exit code when the connection, not the command, failed
COPY_SECONDS = 60.0
MAX_SOCKET = 80  # of 104 or 108; ssh adds a suffix of its own
COPY_BYTES_A_SECOND = 100_000  # slower than that is a hang
# Ends a dead connection within a quarter of a minute; asks nothing.
OPTIONS = (
    "-T",
    *("-o", "BatchMode=yes"),
    *("-o", "StrictHostKeyChecking=yes"),
    *("-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
    *("-o", "LogLevel=ERROR"),
    *("-o", "ClearAllForwardings=yes"),
)


@dataclass(frozen=True)
class SshTransport:
    """One board: `user` and `port` None leave them to the user's ssh configuration.

    With a path `control` for a socket, what runs while another command does shares its connection.
    """

    host: str
    user: str | None = None
    port: int | None = None
    key: Path | None = None
    control: Path | None = None
    pulses: bool = True

    @property
    def name(self) -> str:
        return f"ssh://{self.destination}" + (f":{self.port}" if self.port else "")

    @property
    def destination(self) -> str:
        """What ssh is told to reach."""
        return f"{self.user}@{self.host}" if self.user else self.host

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: str = "") -> Completed:
        """Run a command and wait for it. Raises TransportError for a lost board or `timeout_s` passed."""
        return self._converse(argv, timeout_s, stdin, lambda line: None, pulses=False)

    def stream(self, argv: Sequence[str], *, timeout_s: float, on_line: Callable[[str], None]) -> Completed:
        """Like `run`, calling `on_line` with each line of output; its input stays open and beats."""
        return self._converse(argv, timeout_s, "", on_line, pulses=True)

    def push(self, local: Path, remote: str) -> None:
        """Copy a file to the board and count what arrived. Raises TransportError with the board's reason."""
        what, size = f"copy {local.name} to {self.name}:{remote}", local.stat().st_size
        line = f"cat > {shlex.quote(remote)} && wc -c < {shlex.quote(remote)}"
        with local.open("rb") as source:
            done = self._copy(line, what, size, stdin=source)
        if done.out.strip() != str(size):
            raise TransportError(
                f"cannot {what}", f"{done.out.strip() or 'nothing'} of {size} bytes arrived", "Run it again"
            )

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file from the board. Raises TransportError with the board's reason."""
        with local.open("wb") as target:
            self._copy(f"cat {shlex.quote(remote)}", f"copy {self.name}:{remote}", 1 << 30, stdout=target)

    def close(self) -> None:
        """A shared connection ends with the command that opened it; its socket stays if that was killed."""
        if self.control is not None:
            self.control.unlink(missing_ok=True)

    def command(self, line: str) -> list[str]:
        """The client's arguments for a line of the board's shell."""
        port = ["-p", str(self.port)] if self.port else []
        key = ["-i", str(self.key), "-o", "IdentitiesOnly=yes"] if self.key else []
        shared = []
        if self.control is not None:
            shared = [
                "-o",
                "ControlMaster=auto",
                "-o",
                f"ControlPath={self.control}",
                "-o",
                "ControlPersist=no",
            ]
        return [client(), *OPTIONS, *shared, *port, *key, "--", self.destination, line]

    def _converse(
        self,
        argv: Sequence[str],
        timeout_s: float,
        stdin: str,
        on_line: Callable[[str], None],
        *,
        pulses: bool,
    ) -> Completed:
        # exec: the command and not a shell around it gets what sshd sends.
        command = self.command(f"exec {shlex.join(argv)}")
        what = f"{argv[0]} on {self.name}"
        done = converse(what, command, timeout_s, stdin, on_line, pulses=pulses)
        if done.code == OWN_FAULT:
            raise self.fault(done.err)
        return done

    def _copy(
        self,
        line: str,
        what: str,
        size: int,
        *,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        stdout: IO[bytes] | int = subprocess.PIPE,
    ) -> Completed:
        command = [sys.executable, "-I", "-S", str(TIED), str(os.getpid()), *self.command(line)]
        limit_s = COPY_SECONDS + size / COPY_BYTES_A_SECOND
        try:
            done = subprocess.run(
                command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=limit_s
            )
        except subprocess.TimeoutExpired:
            raise TransportError(
                f"cannot {what}",
                f"not finished after {limit_s:.0f} s",
                "Check the network, then run it again",
            ) from None
        err = done.stderr.decode(errors="replace")
        if done.returncode == OWN_FAULT:
            raise self.fault(err)
        if done.returncode != 0:
            raise TransportError(f"cannot {what}", shell_words(err), copy_fix(err))
        return Completed(0, (done.stdout or b"").decode(errors="replace"), err)

    def fault(self, err: str) -> TransportError:
        """The one line for what the client said."""
        login = "ssh " + (f"-p {self.port} " if self.port else "") + self.destination
        named = f"[{self.host}]:{self.port}" if self.port and self.port != 22 else self.host
        scan = f"ssh-keyscan {f'-p {self.port} ' if self.port else ''}{self.host} >> ~/.ssh/known_hosts"
        cannot = f"cannot reach {self.name}"
        if "IDENTIFICATION HAS CHANGED" in err:
            return TransportError(
                f"refused {self.name}",
                "its host key is another than the known one: another machine has this address, or someone "
                "is in between",
                f"If you know why, run: ssh-keygen -R {shlex.quote(named)}, then accept the new key",
            )
        if "host key" in err.lower() or "Host key verification failed" in err:
            return TransportError(
                f"refused {self.name}",
                "its host key is not known",
                f"Accept it with: {scan}, after comparing its fingerprint with what the board's screen "
                "shows for: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
            )
        if "Permission denied" in err:
            key = f"the key {self.key}" if self.key else "any key that ssh offers"
            return TransportError(
                cannot, f"it does not accept {key}", f"Run: ssh-copy-id {login.removeprefix('ssh ')}"
            )
        for words, why, fix in FAULTS:
            if re.search(words, err):
                return TransportError(cannot, why, fix.format(login=login))
        last = shell_words(err)
        return TransportError(
            f"lost {self.name}",
            f"the connection broke off ({last})" if last else "the connection broke off",
            f"Check power and network with: {login}, then run the command again",
        )


FAULTS = (
    ("Connection refused", "the connection was refused", "Check the port and that sshd runs there: {login}"),
    ("Could not resolve|Name or service", "no such host", "Check the name, or give an address"),
    (
        "Connection timed out|Operation timed out",
        "it does not answer",
        "Check address, power and network: {login}",
    ),
    ("No route to host|unreachable", "there is no way to it", "Check address and network: {login}"),
    (
        "Identity file .* not accessible|invalid format|bad permissions",
        "its key can't be used",
        "Try: {login}",
    ),
    ("Too many authentication failures", "ssh offered too many keys", "Give the right one in boards.toml"),
)


def control_path(address: str) -> Path | None:
    """Where the socket of a shared connection may be: a folder of this user's only, a name of this process's own.

    None where there is no such folder, or its path is too long for a socket.
    """
    folder = Path(tempfile.gettempdir()) / f"edgevit-ssh-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return None
    path = folder / f"{os.getpid()}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
    ours = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o077
    return path if ours and len(str(path)) < MAX_SOCKET and "%" not in str(path) else None


def client() -> str:
    """Path of the OpenSSH client. Raises TransportError with the command that installs it."""
    found = shutil.which("ssh")
    if found is None:
        raise TransportError(
            "cannot use ssh",
            "the OpenSSH client is not installed",
            "Install it (Debian, Ubuntu: sudo apt-get install openssh-client) and run the command again",
        )
    return found


def shell_words(err: str) -> str:
    """The last line that a failed command or the client said."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return lines[-1].rstrip(".")[:300] if lines else ""


def copy_fix(err: str) -> str:
    """What to do about a failed copy."""
    if "No space left" in err:
        return "Make room on the board, or give another work folder in boards.toml"
    if "Permission denied" in err or "Read-only" in err:
        return "Choose a work folder in boards.toml that this user may write"
    return "Check the board's disk"
