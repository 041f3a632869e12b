"""What a user installs with pip holds everything edgevit reads at run time."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_wheel_holds_every_data_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    data = [
        path.relative_to(ROOT)
        for pattern in ("boards/*.toml", "calibration/*.toml")
        for path in ROOT.glob(pattern)
    ]
    assert {f"edgevit/data/{path}" for path in data} <= names
    tracked = subprocess.run(
        ["git", "ls-files", "edgevit"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(tracked) <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_wheel_finds_boards_and_runs(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel]
    subprocess.run(pip, check=True)
    script = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import edgevit; from edgevit.targets.profiles import load_board, load_recipe\n"
        "print(edgevit.__file__); print(load_board('rk3588').name, load_recipe('vendor-default').name)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        str(target / "edgevit" / "__init__.py"),
        "Rockchip RK3588 Vendor defaults",
    ]
