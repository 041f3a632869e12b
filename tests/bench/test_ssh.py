"""Boards behind the real OpenSSH client and a real sshd on loopback."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevit.bench.connect import connect
from edgevit.bench.ssh import SshTransport
from edgevit.bench.transport import TransportError
from tests.bench.ssh_server import Server, keygen, needs_sshd, ssh_server

pytestmark = [pytest.mark.ssh, needs_sshd]


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose key the client has never seen."""
    with ssh_server(tmp_path / "sshd", monkeypatch) as server:
        yield server


@pytest.fixture
def server(stranger: Server) -> Server:
    stranger.accept()
    return stranger


def error_of(transport: object) -> str:
    with pytest.raises(TransportError) as caught:
        transport.run(["true"], timeout_s=20)
    return str(caught.value)


def test_output_errors_and_exit_code_come_back(server: Server) -> None:
    done = connect(server.address).run(["sh", "-c", "echo out; echo err >&2; exit 7"], timeout_s=20)
    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")


def test_arguments_arrive_as_they_were_given(server: Server) -> None:
    words = ["a b", "c;d", "$HOME", "'quoted'", '"', "*", "", "é", "back\\slash", "new\nline", "-x"]
    done = connect(server.address).run(["printf", "%s\\0", *words], timeout_s=20)
    assert done.out.split("\0")[:-1] == words


def test_input_reaches_the_command(server: Server) -> None:
    assert connect(server.address).run(["cat"], timeout_s=20, stdin="one\ntwo\n").out == "one\ntwo\n"


def test_lines_come_as_they_are_printed(server: Server) -> None:
    seen: list[tuple[str, float]] = []
    connect(server.address).stream(
        ["sh", "-c", "echo one; sleep 1; echo two"],
        timeout_s=20,
        on_line=lambda line: seen.append((line, time.monotonic())),
    )
    assert [line for line, _ in seen] == ["one", "two"]
    assert seen[1][1] - seen[0][1] > 0.5


def test_files_go_and_come_back_unchanged_under_any_name(server: Server, tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "local file").write_bytes(content)
    transport = connect(server.address)
    remote = str(tmp_path / "a b; touch 'c' $HOME.bin")
    transport.push(tmp_path / "local file", remote)
    assert Path(remote).read_bytes() == content
    transport.pull(remote, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_unknown_host_is_refused_with_the_command_that_accepts_it(stranger: Server) -> None:
    assert error_of(connect(stranger.address)) == (
        f"refused {stranger.address}: its host key is not known. Accept it with: ssh-keyscan -p {stranger.port} "
        "127.0.0.1 >> ~/.ssh/known_hosts, after comparing its fingerprint with what the board's screen shows for: "
        "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub."
    )
    scanned = subprocess.run(
        ["ssh-keyscan", "-p", str(stranger.port), "127.0.0.1"], capture_output=True, text=True, check=True
    )
    stranger.known_hosts.write_text(scanned.stdout)
    assert connect(stranger.address).run(["true"], timeout_s=20).code == 0


def test_another_host_key_than_the_known_one_is_refused(server: Server, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    key = (tmp_path / "other.pub").read_text().split()[:2]
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {' '.join(key)}\n")
    message = error_of(connect(server.address))
    assert message.startswith(f"refused {server.address}: its host key is another than the known one")
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in message


def test_connection_refused(server: Server) -> None:
    server.process.kill()
    server.process.wait()
    assert error_of(connect(server.address)) == (
        f"cannot reach {server.address}: the connection was refused. Check the port and that sshd runs there: "
        f"ssh -p {server.port} {server.user}@127.0.0.1."
    )


def test_wrong_key(server: Server, tmp_path: Path) -> None:
    keygen(tmp_path / "wrong")
    transport = SshTransport("127.0.0.1", server.user, server.port, tmp_path / "wrong")
    # The tests' own client configuration would offer the right one too.
    (server.folder / "user_key.pub").write_text("")
    assert error_of(transport) == (
        f"cannot reach {server.address}: it does not accept the key {tmp_path / 'wrong'}. "
        f"Run: ssh-copy-id -p {server.port} {server.user}@127.0.0.1."
    )


def test_unknown_name(server: Server) -> None:
    assert error_of(connect("ssh://no-such-board.invalid")).startswith(
        "cannot reach ssh://no-such-board.invalid: no such host."
    )


def test_host_that_vanishes_is_one_line(server: Server) -> None:
    with pytest.raises(TransportError) as caught:
        connect(server.address).stream(
            ["sh", "-c", "echo here; sleep 60"], timeout_s=50, on_line=lambda line: server.cut()
        )
    assert str(caught.value).startswith(f"lost {server.address}: the connection broke off")


def test_command_that_hangs_is_given_up(server: Server) -> None:
    with pytest.raises(TransportError) as caught:
        connect(server.address).run(["sleep", "60"], timeout_s=1)
    assert str(caught.value) == (
        f"sleep on {server.address} did not finish: 1 s passed. Check the board's load, then run the command again."
    )


def test_folder_that_is_not_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TransportError) as caught:
        connect(server.address).push(tmp_path / "file", "/no/such/folder/file")
    assert str(caught.value).startswith(f"cannot copy file to {server.address}:/no/such/folder/file: ")


def test_client_ends_with_edgevit(server: Server, tmp_path: Path) -> None:
    code = (
        "import sys; from edgevit.bench.connect import connect; "
        f"connect({server.address!r}).stream(['sleep', '60'], timeout_s=60, on_line=print)"
    )
    edgevit = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: len(server.connections()) > 0)
    edgevit.kill()
    edgevit.wait()
    wait_for(lambda: len(server.connections()) == 0)


def wait_for(condition: object) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited 10 s")
