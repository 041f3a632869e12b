"""A toolchain is whole or absent, and says which."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from edgevit.errors import InputError, ToolchainError
from edgevit.progress import QUIET, Quiet
from edgevit.toolchains import environment
from edgevit.toolchains.environment import TOOLCHAINS, Toolchain

LOCKS = Path(environment.__file__).parent / "locks"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A toolchain of one small package that is installed for real, from a wheel of the test's own."""
    wheel = make_wheel(tmp_path)
    lock = tmp_path / "lock.txt"
    lock.write_text(
        f"tinytool @ {wheel.as_uri()} --hash=sha256:{environment.hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    )
    monkeypatch.setenv("EDGEVIT_TOOLCHAINS", str(tmp_path / "cache with space"))
    monkeypatch.setattr(environment, "lock_file", lambda name: lock)
    monkeypatch.setitem(TOOLCHAINS, "tiny", Toolchain("tinytool 1.0", "import tinytool", 1))
    return "tiny"


def make_wheel(folder: Path) -> Path:
    import zipfile

    path = folder / "tinytool-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tinytool.py", "VALUE = 1\n")
        wheel.writestr(
            "tinytool-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinytool\nVersion: 1.0\n"
        )
        wheel.writestr(
            "tinytool-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tinytool-1.0.dist-info/RECORD", "")
    return path


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.txt")), ids=lambda path: path.name)
def test_every_requirement_is_pinned_and_hashed(lock: Path) -> None:
    text = lock.read_text()
    requirements = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert requirements
    for line in requirements:
        assert "==" in line
        assert line.endswith(" \\"), f"{line} has no hash"
    assert "://" not in text
    assert not any(line.startswith(("torch==", "nvidia", "tensorflow")) for line in requirements)


def test_both_pythons_lock_the_same_versions() -> None:
    for name in ("rknn", "litert"):
        pins = [
            {
                line.split(" ")[0]
                for line in (LOCKS / f"{name}-py{tag}.txt").read_text().splitlines()
                if "==" in line
            }
            for tag in ("311", "312")
        ]
        assert pins[0] == pins[1]


def test_missing_toolchain_is_one_line_with_the_command(tiny: str) -> None:
    with pytest.raises(ToolchainError) as caught:
        environment.python_of(tiny)
    assert str(caught.value) == (
        'cannot use the tiny toolchain: it is not installed. Run "edgevit toolchain install tiny".'
    )


def test_install_makes_it_usable_and_the_second_time_does_nothing(tiny: str) -> None:
    folder = environment.install(tiny, QUIET)
    assert environment.python_of(tiny) == folder / "bin" / "python"
    made = (folder / environment.STATE).stat().st_mtime_ns
    assert environment.install(tiny, QUIET) == folder
    assert (folder / environment.STATE).stat().st_mtime_ns == made
    assert environment.state(tiny).problem is None


def test_damaged_toolchain_is_seen_and_made_anew(tiny: str) -> None:
    folder = environment.install(tiny, QUIET)
    module = next(folder.rglob("tinytool.py"))
    module.unlink()
    assert "files" in str(environment.state(tiny).problem)
    environment.install(tiny, QUIET)
    assert module.exists()


def test_installation_that_was_killed_is_not_taken_for_one(tiny: str) -> None:
    folder = environment.install(tiny, QUIET)
    (folder / environment.STATE).unlink()
    with pytest.raises(ToolchainError, match="it is not installed"):
        environment.python_of(tiny)
    leftover = folder.parent / ".tiny-dead.staging"
    leftover.mkdir()
    environment.install(tiny, QUIET)
    assert environment.python_of(tiny).exists()
    assert not leftover.exists()


def test_wrong_hash_is_refused_and_leaves_nothing(tiny: str) -> None:
    lock = environment.lock_file(tiny)
    lock.write_text(lock.read_text()[:-65] + "0" * 64 + "\n")
    with pytest.raises(ToolchainError) as caught:
        environment.install(tiny, QUIET)
    assert str(caught.value).startswith("cannot install the tiny toolchain: ")
    assert str(caught.value).endswith(f"See {environment.log_file(tiny)}.")
    assert not [path for path in environment.root().iterdir() if path.is_dir()]


def test_package_that_does_not_work_here_is_not_kept(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOOLCHAINS, "tiny", Toolchain("tinytool 1.0", "import nothing_of_that_name", 1))
    with pytest.raises(
        ToolchainError, match=r"does not work here \(ModuleNotFoundError: No module named 'nothing"
    ):
        environment.install(tiny, QUIET)
    assert not environment.folder(tiny).exists()


def test_full_disk_is_told_before_anything_is_written(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOOLCHAINS, "tiny", Toolchain("tinytool 1.0", "import tinytool", 10**9))
    with pytest.raises(ToolchainError, match="it needs 1000000000 MB in "):
        environment.install(tiny, QUIET)


def test_two_installations_at_once_both_end_well(tiny: str) -> None:
    import threading

    progress = [Quiet(), Quiet()]
    threads = [threading.Thread(target=environment.install, args=(tiny, each)) for each in progress]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert environment.state(tiny).problem is None


def test_remove_deletes_and_says_when_there_is_nothing(tiny: str) -> None:
    folder = environment.install(tiny, QUIET)
    environment.remove(tiny)
    assert not folder.exists()
    with pytest.raises(InputError) as caught:
        environment.remove(tiny)
    assert str(caught.value) == "cannot remove the tiny toolchain: it is not installed. Nothing to do."


def test_unknown_toolchain_is_one_line() -> None:
    with pytest.raises(InputError) as caught:
        environment.install("rkn", QUIET)
    assert str(caught.value) == (
        "unknown toolchain 'rkn': there is none of that name. Choose from rknn, litert."
    )


def test_other_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    monkeypatch.setattr(
        environment.sys, "version_info", type("V", (tuple,), {"major": 3, "minor": 13})((3, 13))
    )
    with pytest.raises(
        InputError, match="it has no lock for Python 3.13. Run edgevit with Python 3.11 or 3.12."
    ):
        environment.known("rknn")


def test_state_is_json(tiny: str) -> None:
    environment.install(tiny, QUIET)
    assert json.loads(json.dumps(environment.state(tiny).to_json()))["installed"] is True
    shutil.rmtree(environment.root())
