"""A tiny model in a user's file and tiny images: everything a conversion needs, in seconds."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from edgevit.cli import group
from edgevit.toolchains import environment as toolchains
from tests.images.pictures import class_folders

MODEL = """
import torch
from edgevit import torch_setup
from timm.models.vision_transformer import VisionTransformer

def tiny():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model
"""


@dataclass(frozen=True)
class Project:
    """A user's folder: model.py, images/calibration and images/validation in class folders."""

    folder: Path

    def run(self, *arguments: str, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run edgevit here as a user does, in this process: loading torch takes longer; assert its exit code."""
        out, error = io.StringIO(), io.StringIO()
        line = self.command(*arguments)
        with ExitStack() as here:
            here.enter_context(contextlib.chdir(self.folder))
            here.enter_context(mock.patch.dict(os.environ, self.options["env"]))
            here.enter_context(mock.patch.object(sys, "argv", ["edgevit", *arguments]))
            here.enter_context(contextlib.redirect_stdout(out))
            here.enter_context(contextlib.redirect_stderr(error))
            code = group.run(arguments)
        done = subprocess.CompletedProcess(line, code, out.getvalue(), error.getvalue())
        assert check is None or done.returncode == check, done.stderr
        return done

    def convert(self, *arguments: str, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Convert the tiny model for ONNX Runtime unless told otherwise."""
        return self.run(*self.convert_arguments(*arguments), check=check)

    def convert_arguments(self, *arguments: str) -> tuple[str, ...]:
        """What `convert` runs; later options win, and targets given replace the usual one."""
        target = () if "--target" in arguments else ("--target", "onnx")
        images = ("--calibration", "images/calibration", "--validation", "images/validation")
        return ("convert", "model.py:tiny", *target, *images, *arguments)

    def error(self, *arguments: str, code: int = 1) -> str:
        """The one line a failing conversion ends with."""
        stderr = self.convert(*arguments, check=code).stderr
        lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, stderr
        assert stderr.rstrip().endswith(lines[0]), stderr
        assert "Traceback" not in stderr
        return lines[0].removeprefix("error: ")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "edgevit", *arguments]

    @property
    def options(self) -> dict[str, Any]:
        environment = {
            "EDGEVIT_TOOLCHAINS": str(toolchains.root()),
            **os.environ,
            "XDG_CACHE_HOME": str(self.folder / "cache"),  # tests run side by side; a run has one user
            "OMP_NUM_THREADS": "2",
            "HF_HUB_OFFLINE": "1",
        }
        return {"cwd": self.folder, "env": environment, "capture_output": True, "text": True, "timeout": 600}

    def manifest(self, run: str = "runs/model") -> dict[str, Any]:
        """The manifest of a run."""
        return dict(json.loads((self.folder / run / "manifest.json").read_text()))


def make_project(folder: Path) -> Project:
    """Write a tiny model and its images into a folder."""
    (folder / "model.py").write_text(MODEL)
    random = np.random.default_rng(0)
    for role, count in (("calibration", 8), ("validation", 12)):
        for index in range(count):
            path = folder / "images" / role / f"class{index % 3}" / f"{role} {index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(path)
    return Project(folder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `calibration` and `validation` of labelled pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, role in enumerate(("calibration", "validation")):
        class_folders(folder / role, 24, seed=seed)
    return folder
