"""An int8 artefact that loses much is compared with what int8 arithmetic by itself does to the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgevit
from edgevit.backends.protocol import CompileRequest, CompileResult
from edgevit.progress import Quiet
from tests.backends import made_up
from tests.conversion.test_pipeline import only, proving, registered
from tests.vits import random_vit


def converted(pictures: Path, out: Path, factor: float, labels: bool = True) -> list[str]:
    """The notes of an int8 artefact whose outputs are the float model's times a factor."""
    backend, _ = proving(right=True)
    real = backend.compile

    def compile_(request: CompileRequest, progress: Any) -> CompileResult:
        result = real(request, progress)
        if request.plan.quantized and result.outputs is not None:
            np.save(result.outputs, factor * np.load(result.outputs))
        return result

    with registered(replace(backend, compile=compile_)):
        run = edgevit.convert(
            edgevit.wrap(random_vit(patch_size=8, num_classes=4), size=32, name="vit"),
            made_up.board(),
            calibration=pictures / "calibration",
            validation=pictures / "validation" if labels else None,
            recipe="vendor-default",
            out=out,
            progress=Quiet(),
        )
    return [note for note in only(run).notes if note.startswith("int8 ")]


@pytest.mark.parametrize("labels", [True, False])
def test_a_compiler_that_loses_more_than_int8_has_to_is_told(
    pictures: Path,
    tmp_path: Path,
    labels: bool,
) -> None:
    (note,) = converted(pictures, tmp_path / "run", -1.0, labels)
    assert note.startswith(
        "int8 does not have to lose this much: the artefact's outputs are off by 2e+02 %, fake quantization of the "
        "same graph by "
    )


def test_nothing_is_said_of_an_artefact_that_keeps_the_outputs(pictures: Path, tmp_path: Path) -> None:
    assert converted(pictures, tmp_path / "run", 0.9) == []


def test_a_model_that_int8_itself_does_not_bear_is_told_so(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edgevit.conversion import int8_check

    monkeypatch.setattr(int8_check, "relative_error", lambda found, expected: 0.9)
    (note,) = converted(pictures, tmp_path / "run", -1.0)
    assert note == (
        "int8 itself does not bear this model: its outputs are off by 90 %, fake quantization of the same graph by "
        "90 %; use --precision float, or train for int8"
    )
