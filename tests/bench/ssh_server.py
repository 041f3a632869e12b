"""An sshd of the tests' own on loopback, with its own keys, and a client configuration that knows nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.bench.ports import free_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="no sshd (apt-get install openssh-server)"
)
SEPARATION = Path("/run/sshd")  # made by the system's start script; root's sshd refuses to start without


@dataclass
class Server:
    """A running sshd; `address` has the user in it."""

    folder: Path
    port: int
    user: str
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def identity(self) -> Path:
        return self.folder / "user_key"

    def accept(self) -> None:
        """Do what the refusal of an unknown host says."""
        key = (self.folder / "host_key.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {' '.join(key)}\n")

    def connections(self) -> list[psutil.Process]:
        """The processes that serve connections, outermost first."""
        return self._below(recursive=False)

    def cut(self) -> None:
        """Break every connection."""
        for process in self._below(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.name().startswith("sshd"):
                    process.kill()

    def _below(self, *, recursive: bool) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=recursive)
        except psutil.NoSuchProcess:
            return []


def keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def write_config(folder: Path, environment: dict[str, str]) -> Path:
    """sshd's configuration; keys of this folder only."""
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    lines = [
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host_key",
        f"AuthorizedKeysFile {folder}/user_key.pub",
        "PidFile none",
        "StrictModes no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "MaxStartups 100",
        f"SetEnv {variables}" if variables else "",
    ]
    path = folder / "sshd_config"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def ssh_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str] | None = None
) -> Iterator[Server]:
    """A server on a free port; every `ssh` in the block uses the folder's keys and known hosts."""
    assert SSHD is not None
    folder.mkdir(parents=True, exist_ok=True)
    keygen(folder / "host_key")
    keygen(folder / "user_key")
    if os.getuid() == 0:
        SEPARATION.mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    config = write_config(folder, environment or {})
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-p", str(port), "-f", str(config)], stderr=log)
    server = Server(folder, port, psutil.Process().username(), process)
    use_client(server, monkeypatch)
    try:
        wait_for_port(server)
        yield server
    finally:
        server.cut()
        process.kill()
        process.wait()


def use_client(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an `ssh` first in PATH that is the real one with a configuration of the tests' own."""
    config = server.folder / "ssh_config"
    config.write_text(
        f"UserKnownHostsFile {server.known_hosts}\nGlobalKnownHostsFile /dev/null\n"
        f"IdentityFile {server.identity}\nIdentitiesOnly yes\nIdentityAgent none\n"
    )
    programs = server.folder / "bin"
    programs.mkdir()
    wrapper = programs / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def wait_for_port(server: Server) -> None:
    """Until it listens."""
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError((server.folder / "sshd.log").read_text())
