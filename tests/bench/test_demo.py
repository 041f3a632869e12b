"""The bundled model, converted for real, predicts over ssh what it predicted here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import platformdirs
import pytest
from click.testing import CliRunner

from edgevit.cli.bench import command as bench
from edgevit.cli.convert import command as convert
from edgevit.errors import ToolchainError
from edgevit.toolchains import environment
from tests.bench.ssh_server import needs_sshd, ssh_server

pytestmark = [pytest.mark.ssh, pytest.mark.toolchain, pytest.mark.slow, needs_sshd]
IMAGES = 40


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_predictions_over_ssh_are_the_local_ones(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = sys.executable
    if target == "tflite":
        try:
            python = str(environment.python_of("litert"))
        except ToolchainError as error:
            pytest.skip(str(error))
    run = tmp_path / "run"
    options = [
        "--target",
        target,
        "--precision",
        "float",
        "--validation-images",
        str(IMAGES),
        "--out",
        str(run),
    ]
    made = CliRunner().invoke(convert, options)
    assert made.exit_code == 0, made.exception
    path = Path(platformdirs.user_config_dir("edgevit")) / "boards.toml"
    path.parent.mkdir(parents=True)
    with ssh_server(tmp_path / "sshd", monkeypatch) as server:
        server.accept()
        path.write_text(f'[desk]\naddress = "{server.address}"\npython = "{python}"\n')
        quick = ["--runs", "3", "--seconds", "0", "--json"]
        result = CliRunner().invoke(bench, [str(run), "--board", "desk", *quick])
    assert result.exit_code == 0, result.exception
    (record,) = json.loads(result.stdout)
    assert record["same_as_local"]["agree"] == record["same_as_local"]["n"] == IMAGES
