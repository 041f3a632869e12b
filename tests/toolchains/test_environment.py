"""A toolchain is whole or absent, and says which."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgevit.errors import InputError, ToolchainError
from edgevit.progress import QUIET, Quiet
from edgevit.toolchains import environment, installation, interpreters
from edgevit.toolchains.releases import LOCKS, RELEASES, Release
from tests.toolchains.conftest import release
from tests.toolchains.processes import alive, wait_until


@pytest.fixture(scope="session")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with pip, made once: it takes seconds."""
    made = tmp_path_factory.mktemp("venv") / "venv"
    here = interpreters.ask(interpreters.own())
    assert here is not None
    installation.make_venv(release("tiny", borrows_torch=True), here, made)
    return made


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_environment: Path) -> str:
    """A toolchain of one small package that is installed for real, from a wheel of the test's own."""
    monkeypatch.setattr(
        installation,
        "make_venv",
        lambda known, python, staging: shutil.copytree(
            empty_environment, staging, symlinks=True, dirs_exist_ok=True
        ),
    )
    wheel = make_wheel(tmp_path)
    lock = tmp_path / "lock.txt"
    lock.write_text(
        f"tinytool @ {wheel.as_uri()} --hash=sha256:{environment.hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    )
    monkeypatch.setenv("EDGEVIT_TOOLCHAINS", str(tmp_path / "cache with space"))
    worker = tmp_path / "worker.py"
    monkeypatch.setattr(environment, "lock_file", lambda name: lock)
    monkeypatch.setattr(environment, "worker", lambda name: worker)
    tiny_is(monkeypatch)
    return "tiny"


def tiny_is(monkeypatch: pytest.MonkeyPatch, check: str = "import tinytool", needed_mb: int = 1) -> None:
    """The tiny toolchain borrows torch, and so runs on the Python of the tests."""
    tool = release("tiny", "tinytool 1.0", check, needed_mb, borrows_torch=True)
    monkeypatch.setitem(RELEASES, "tiny", (tool,))


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


@pytest.mark.parametrize(
    "known", [each for known in RELEASES.values() for each in known], ids=lambda each: each.lock.stem
)
def test_every_release_has_a_lock_that_pins_it(known: Release) -> None:
    package = known.title.split(" ")[0]
    assert environment.pins(known.lock)[package] == known.version
    assert len(list(LOCKS.glob("*.txt"))) == sum(map(len, RELEASES.values()))


def test_missing_toolchain_is_one_line_with_the_command(tiny: str) -> None:
    with pytest.raises(ToolchainError) as caught:
        environment.python_of(tiny)
    assert str(caught.value) == (
        'cannot use the tiny toolchain: it is not installed. Run "edgevit toolchain install tiny".'
    )


def test_install_makes_it_usable_and_the_second_time_does_nothing(tiny: str) -> None:
    folder = installation.install(tiny, QUIET)
    assert environment.python_of(tiny) == folder / "bin" / "python"
    made = (folder / environment.STATE).stat().st_mtime_ns
    assert installation.install(tiny, QUIET) == folder
    assert (folder / environment.STATE).stat().st_mtime_ns == made
    assert environment.state(tiny).problem is None


@pytest.mark.slow
def test_damaged_toolchain_is_seen_and_made_anew(tiny: str) -> None:
    folder = installation.install(tiny, QUIET)
    module = next(folder.rglob("tinytool.py"))
    module.unlink()
    summary = environment.state(tiny).summary
    assert summary.startswith("tinytool 1.0: damaged: ")
    assert summary.endswith(" (edgevit toolchain install tiny)")
    installation.install(tiny, QUIET)
    assert module.exists()


@pytest.mark.slow
def test_installation_that_was_killed_is_not_taken_for_one(tiny: str) -> None:
    folder = installation.install(tiny, QUIET)
    (folder / environment.STATE).unlink()
    with pytest.raises(ToolchainError, match="it is not installed"):
        environment.python_of(tiny)
    leftover = folder.parent / ".tiny-dead.staging"
    leftover.mkdir()
    installation.install(tiny, QUIET)
    assert environment.python_of(tiny).exists()
    assert not leftover.exists()


def test_wrong_hash_is_refused_and_leaves_nothing(tiny: str) -> None:
    lock = environment.lock_file(tiny)
    lock.write_text(lock.read_text()[:-65] + "0" * 64 + "\n")
    with pytest.raises(ToolchainError) as caught:
        installation.install(tiny, QUIET)
    assert str(caught.value).startswith("cannot install the tiny toolchain: ")
    assert str(caught.value).endswith(f"See {installation.log_file(tiny)}.")
    assert not [path for path in environment.root().iterdir() if path.is_dir()]


def test_package_that_does_not_work_here_is_not_kept(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_is(monkeypatch, check="import nothing_of_that_name")
    with pytest.raises(ToolchainError) as caught:
        installation.install(tiny, QUIET)
    torch = environment.torch_version()
    assert str(caught.value) == (
        f"cannot use the tiny toolchain: it is installed but does not work with torch {torch} "
        "here (ModuleNotFoundError: No module named 'nothing_of_that_name'). "
        'Report this with what "edgevit doctor" prints.'
    )
    assert not environment.folder(tiny).exists()


def test_another_torch_to_borrow_is_proved_anew(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = installation.install(tiny, QUIET)
    monkeypatch.setattr(environment, "torch_version", lambda: "99.0")
    tiny_is(monkeypatch, check="raise ImportError('needs torch<99')")
    with pytest.raises(
        ToolchainError, match=r"does not work with torch 99.0 here \(ImportError: needs torch<99\)"
    ):
        installation.install(tiny, QUIET)
    tiny_is(monkeypatch)
    installation.install(tiny, QUIET)
    assert json.loads((folder / environment.STATE).read_text())["torch"] == "99.0"


def test_users_pip_settings_do_not_move_packages(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("PIP_TARGET", str(elsewhere))
    monkeypatch.setenv("PIP_USER", "1")
    folder = installation.install(tiny, QUIET)
    assert list(folder.rglob("tinytool.py"))
    assert not elsewhere.exists()


def test_killed_installation_leaves_no_pip_behind(tiny: str, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SLOW_INSTALL, str(tmp_path / "staging"), str(tmp_path / "pid")]
    )
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text() != "")
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(int(pid.read_text())))


# pip, as installation starts it, but its work is to sleep.
SLOW_INSTALL = """
import pathlib, sys
from edgevit.toolchains import environment, installation, interpreters
environment.interpreter = lambda folder: sys.executable
site = pathlib.Path(sys.argv[1]); site.mkdir()
script = site / "pip.py"
script.write_text("import time; time.sleep(600)")
environment.START = site / "start.py"
real = pathlib.Path(environment.__file__).parent / "workers" / "start.py"
environment.START.write_text(f"import sys; sys.path.insert(0, {str(site)!r})\\n" + real.read_text())
with installation.pip(site, ["install"]) as process:
    pathlib.Path(sys.argv[2]).write_text(str(process.pid))
    process.wait()
"""


def test_folder_that_cannot_be_made_is_one_line(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEVIT_TOOLCHAINS", str(tmp_path / "file" / "toolchains"))
    with pytest.raises(ToolchainError) as caught:
        installation.install(tiny, QUIET)
    assert str(caught.value) == (
        f"cannot install or remove the tiny toolchain: {tmp_path / 'file' / 'toolchains'}: not a directory. "
        "Correct that, or set EDGEVIT_TOOLCHAINS to another folder."
    )


def test_python_without_pip_names_the_system_package(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "ask", lambda path: None)
    with pytest.raises(ToolchainError) as caught:
        installation.install(tiny, QUIET)
    assert str(caught.value) == (
        "cannot install the tiny toolchain: this Python can't create environments with pip. "
        "On Debian and Ubuntu: sudo apt-get install python3-venv."
    )


@pytest.mark.slow
def test_a_folder_of_packages_replaces_the_index(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/nowhere")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    lock, wheel = environment.lock_file(tiny), tmp_path / "tinytool-1.0-py3-none-any.whl"
    digest = environment.hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock.write_text(f"tinytool==1.0 --hash=sha256:{digest}\n")
    empty, wheels = tmp_path / "empty", tmp_path / "wheels"
    empty.mkdir()
    with pytest.raises(ToolchainError, match="No matching distribution found for tinytool==1.0"):
        installation.install(tiny, QUIET, wheels=empty)
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    python = installation.download(tiny, wheels, QUIET)
    assert [path.name for path in wheels.iterdir()] == [wheel.name]
    assert python.minor == f"{sys.version_info[0]}.{sys.version_info[1]}"
    monkeypatch.delenv("PIP_FIND_LINKS")
    folder = installation.install(tiny, QUIET, wheels=wheels)
    assert environment.python_of(tiny) == folder / "bin" / "python"


def bare_python(script: str) -> str:
    """The last line that a Python without packages of its own says of a script."""
    bare = [Path(sys.base_prefix) / "bin" / "python3", "-I", "-S", "-c", script]
    return subprocess.run(bare, capture_output=True, text=True).stderr.splitlines()[-1]


def test_a_worker_that_borrows_torch_sees_nothing_else_of_its_environment(tmp_path: Path) -> None:
    for package in ("torch", "transformers"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("VALUE = 1\n")
    script = (
        f"import sys; sys.path.append({str(environment.SHARED)!r}); import job; job.torch_from({str(tmp_path)!r})\n"
        f"import torch; assert torch.__file__.startswith({str(tmp_path)!r})\n"
        "import transformers"
    )
    assert bare_python(script) == "ModuleNotFoundError: No module named 'transformers'"


@pytest.mark.toolchain
@pytest.mark.parametrize("name", RELEASES)
def test_nothing_of_edgevits_own_environment_can_be_imported_in_a_worker(name: str) -> None:
    """But the torch of the one that borrows it: its Python starts as `run_job` starts it."""
    borrowed = environment.borrowed(name)
    script = f"""
import importlib.util, sys
sys.path.append({str(environment.SHARED)!r})
import job
job.torch_from({borrowed!r})
for package in ("edgevit", "timm", "click", "pytest", "torchvision"):
    assert importlib.util.find_spec(package) is None, package
assert not [folder for folder in sys.path if folder.startswith({sys.prefix!r})], sys.path
import torch
print(getattr(torch, "__file__", None))
"""
    done = subprocess.run(
        [environment.python_of(name), "-I", "-c", script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(environment.__file__).parents[2]), "HOME": "/nowhere"},
    )
    assert done.returncode == 0, done.stderr
    found = done.stdout.strip()
    assert found.startswith(borrowed) if borrowed else found == "None"


def test_full_disk_is_told_before_anything_is_written(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_is(monkeypatch, needed_mb=10**9)
    with pytest.raises(ToolchainError, match="it needs 1000000000 MB in "):
        installation.install(tiny, QUIET)


def test_two_installations_at_once_both_end_well(tiny: str) -> None:
    import threading

    progress = [Quiet(), Quiet()]
    threads = [threading.Thread(target=installation.install, args=(tiny, each)) for each in progress]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert environment.state(tiny).problem is None


def test_remove_deletes_and_says_when_there_is_nothing(tiny: str) -> None:
    folder = installation.install(tiny, QUIET)
    installation.remove(tiny)
    assert not folder.exists()
    with pytest.raises(InputError) as caught:
        installation.remove(tiny)
    assert str(caught.value) == "cannot remove the tiny toolchain: it is not installed. Nothing to do."


def test_state_is_json(tiny: str) -> None:
    installation.install(tiny, QUIET)
    assert json.loads(json.dumps(environment.state(tiny).to_json()))["installed"] is True
    shutil.rmtree(environment.root())
