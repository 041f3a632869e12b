"""What a board may be called."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from edgevit.bench.connect import Place, connect, locate, reach
from edgevit.bench.host import HostTransport
from edgevit.bench.ssh import SshTransport
from edgevit.bench.transport import TransportError
from edgevit.errors import InputError


def write_boards(text: str) -> Path:
    path = Path(platformdirs.user_config_dir("edgevit")) / "boards.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def message(where: str) -> str:
    with pytest.raises(InputError) as caught:
        connect(where)
    return str(caught.value)


def test_this_machine() -> None:
    assert isinstance(connect("host"), HostTransport)


@pytest.mark.parametrize(
    ("address", "user", "host", "port"),
    [
        ("ssh://pi@10.0.0.7", "pi", "10.0.0.7", None),
        ("ssh://board", None, "board", None),
        ("ssh://Board.local:2222", None, "Board.local", 2222),
        ("ssh://root@[fe80::1%eth0]:22", "root", "fe80::1%eth0", 22),
    ],
)
def test_ssh_addresses(address: str, user: str | None, host: str, port: int | None) -> None:
    made = connect(address)
    assert isinstance(made, SshTransport)
    assert (made.user, made.host, made.port) == (user, host, port)
    made.close()


@pytest.mark.parametrize(
    "address", ["ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://x;y", "ssh://$(x)@y"]
)
def test_what_is_no_host_never_reaches_the_client(address: str) -> None:
    assert message(address) == (
        f"cannot reach {address!r}: that is no user and host name. Use ssh://[user@]host[:port]."
    )


def test_passwords_and_paths_are_refused() -> None:
    assert message("ssh://pi:secret@h").endswith("a password can't be given. Set up a key: ssh-copy-id.")
    assert message("ssh://h/tmp").endswith("it goes on after the host. Use ssh://[user@]host[:port].")


def test_a_name_from_the_boards_file() -> None:
    write_boards('[desk]\naddress = "ssh://pi@h"\nprofile = "rk3588"\nwork_folder = "/data"\n')
    assert locate("desk") == Place("ssh://pi@h", "rk3588", None, "/data", "python3")
    transport = connect("desk")
    assert transport.name == "ssh://pi@h"
    transport.close()


def test_a_misspelt_name() -> None:
    write_boards('[desk]\naddress = "host"\n')
    assert message("deks") == (
        "cannot reach board 'deks': it is neither an address nor a name in boards.toml. Did you mean desk."
    )
    assert message("pi@10.0.0.7").endswith("Did you mean ssh://pi@10.0.0.7.")


def test_a_misspelt_key() -> None:
    path = write_boards('[desk]\naddress = "host"\nprofil = "rk3588"\n')
    assert message("desk") == (
        f"{path} is not a valid list of boards: in [desk], unknown key profil. Rename it to profile."
    )


def test_a_damaged_file() -> None:
    path = write_boards("[desk\n")
    assert message("desk").startswith(f"{path} is not a valid list of boards: ")


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        reach(Place("ssh://h", key=tmp_path / "none"))
    assert f"its key {tmp_path / 'none'} is not there" in str(caught.value)


def test_here_as_there(tmp_path: Path) -> None:
    board = HostTransport()
    done = board.run(["sh", "-c", "cat; exit 3"], timeout_s=10, stdin="a\n")
    assert (done.code, done.out) == (3, "a\n")
    assert board.run(["no-such-program"], timeout_s=10).code == 127
    with pytest.raises(TransportError) as caught:
        board.push(tmp_path / "none", str(tmp_path / "there"))
    assert "no such file or directory" in str(caught.value)
