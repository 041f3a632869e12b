"""Shared fixtures: user folders kept away from the real ones, and the reference data where it is present."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def reference_folder() -> Path:
    """Where the reference model and images are looked for."""
    return Path(os.environ.get("EDGEVIT_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def reference_data() -> Path:
    """The folder of the reference model and images; skips where it is absent."""
    folder = reference_folder()
    if not (folder / "imagenet-dev" / "validation.csv").is_file():
        pytest.skip(f"no reference data in {folder} (set EDGEVIT_DATA)")
    return folder


@pytest.fixture(autouse=True)
def user_folders_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuration, state and logs go to a temporary folder; toolchains are shared: they take minutes."""
    home = tmp_path_factory.mktemp("home")
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(home / variable.lower()))
    monkeypatch.setenv("EDGEVIT_CACHE", str(home / "steps"))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small tensors are slower on many threads than on one, and the tests themselves run side by side."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
