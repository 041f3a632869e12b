"""`edgevit predict` answers with what a run made, as the run's images were prepared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edgevit import torch_setup  # noqa: F401
from edgevit.cli import group
from edgevit.errors import InputError
from edgevit.prediction import predict
from tests.reporting import runs

pytestmark = pytest.mark.xdist_group("predict")  # one conversion for all


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of the bundled model for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    arguments = ["--target", "onnx", "--precision", "float", "--validation-images", "40"]
    assert group.run(["convert", *arguments, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def digits() -> list[Path]:
    """Three validation images of the bundled model, of the digits 2, 5 and 7."""
    from edgevit.conversion.sources import demo_images

    return [sorted((demo_images() / "validation" / name).glob("*.png"))[0] for name in ("2", "5", "7")]


def answers(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> Any:
    """What predict --json prints."""
    capsys.readouterr()
    assert group.run(["predict", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line a failing predict ends with."""
    capsys.readouterr()
    assert group.run(["predict", *map(str, arguments)]) == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_a_run_answers_with_names(
    run: Path, digits: list[Path], capsys: pytest.CaptureFixture[str], target: str
) -> None:
    found = answers(capsys, *digits, "--model", run, "--target", target, "--top", "3")
    assert [each["guesses"][0]["name"] for each in found["images"]] == ["2", "5", "7"]
    for each in found["images"]:
        shares = [guess["probability"] for guess in each["guesses"]]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1.0
    assert found["how"] == "host CPU"


def test_an_artefact_gives_the_logits_that_were_evaluated(run: Path) -> None:
    chosen = predict.choose(run)
    manifest = chosen.run.manifest
    step = manifest.step(manifest.results[0].step)
    pixels = np.asarray(chosen.run.array(manifest.stage("validation"), "pixels.npy")[:4])
    outputs = predict.outputs_of(chosen, pixels, predict.QUIET)
    np.testing.assert_allclose(outputs, chosen.run.array(step, "outputs.npy")[:4], atol=1e-5)


def test_an_artefact_in_its_run_needs_nothing_more(
    run: Path, digits: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = answers(capsys, digits[0], "--model", run / "demo-onnx-float.onnx", "--top", "1")
    assert found["images"][0]["guesses"][0]["name"] == "2"


def test_a_lone_artefact_needs_the_run_it_came_from(
    run: Path, digits: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = tmp_path / "lone.onnx"
    shutil.copyfile(run / "demo-onnx-float.onnx", lone)
    assert line(capsys, digits[0], "--model", lone) == (
        f"error: cannot predict with {lone}: a lone artefact doesn't say how its images are prepared, and there is "
        "no manifest.json beside it. Give the run that made it with --like RUN, or the run itself as --model."
    )
    found = answers(capsys, digits[0], "--model", lone, "--like", run, "--top", "1")
    assert found["images"][0]["guesses"][0]["name"] == "2"


def test_bad_pictures_are_named_and_the_others_answered(
    run: Path, digits: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(digits[0].read_bytes()[:200])
    bad = [tmp_path / "text.jpg", tmp_path / "cut.png", tmp_path / "gone.png", tmp_path]
    found = answers(capsys, bad[0], digits[1], *bad[1:], "--model", run, code=1)
    assert found["images"][1]["guesses"][0]["name"] == "5"
    errors = [each["error"] for each in found["images"]]
    assert [errors[0], errors[1], *errors[3:]] == ["not an image", None, "no such file", "it is a folder"]
    assert errors[2]
    said = line(capsys, bad[0], digits[1], "--model", run)
    assert said == (f"error: cannot read 1 of 2 images: {bad[0]}: not an image. The others were predicted.")


def test_a_decompression_bomb_is_refused(
    run: Path, digits: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    found = answers(capsys, digits[0], "--model", run, code=1)
    assert found["images"][0]["error"] == "96x96 pixels: may be a decompression bomb"


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16", "P", "1"])
def test_pictures_of_any_mode_give_the_same_answer(
    run: Path, digits: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    with Image.open(digits[2]) as opened:
        if mode == "I;16":
            other = Image.fromarray(np.asarray(opened.convert("L")).astype(np.uint16) * 257)
        else:
            other = opened.convert(mode)
    path = tmp_path / "other.tiff"
    other.save(path)
    found = answers(capsys, path, "--model", run, "--top", "1")
    assert found["images"][0]["guesses"][0]["name"] == "7"


def test_attention_is_drawn_beside_each_picture(
    run: Path, digits: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "where.png"
    answers(capsys, *digits, "--model", run, "--attention", out)
    with Image.open(out) as drawn:
        assert drawn.height > 2.5 * drawn.width * 0.5
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 1000


def test_attention_to_an_unknown_format_is_refused(
    run: Path, digits: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "where.xyz"
    assert line(capsys, digits[0], "--model", run, "--attention", out) == (
        f"error: cannot draw to {out}: its name ends in no known format. Use .png, .pdf, .svg, .jpg."
    )


def test_user_labels_replace_the_runs(
    run: Path, digits: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text(
        "\n".join(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    )
    found = answers(capsys, digits[0], "--model", run, "--top", "1", "--labels", tmp_path / "names.txt")
    assert found["images"][0]["guesses"][0]["name"] == "two"


def test_classes_without_names_have_numbers() -> None:
    found = predict.guesses(np.array([0.0, 3.0, 1.0], dtype=np.float32), None, 2)
    assert [guess.name for guess in found] == ["class 1", "class 2"]


@pytest.mark.slow
def test_weights_that_changed_since_are_refused(tmp_path: Path) -> None:
    import timm

    def save(seed: int) -> None:
        torch.manual_seed(seed)
        save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")

    save(0)
    arguments = ["--weights", str(tmp_path / "w.safetensors"), "--target", "onnx", "--precision", "float"]
    assert group.run(["convert", "test_vit", *arguments, "--out", str(tmp_path / "run")]) == 0
    chosen = predict.choose(tmp_path / "run", target="torch")
    assert predict.float_model(chosen.run, predict.QUIET).name == "test_vit"
    save(1)
    with pytest.raises(InputError) as error:
        predict.float_model(chosen.run, predict.QUIET)
    assert str(error.value) == (
        f"cannot load the float model of {tmp_path / 'run'}: its weights are not those the run was made from. "
        "Restore them, or run edgevit convert again."
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "rk3588",
            "cannot predict with deit-rk3588-int8.rknn: a .rknn runs on its Rockchip NPU only. Use edgevit bench "
            "with --board on the board, or --target torch or another target of the run here.",
        ),
        (
            "rk3566",
            "cannot predict with {run}: it made no such artefact. Choose from rk3588 int8, tflite int8, "
            "or --target torch.",
        ),
        (
            "tflite",
            "cannot predict with {run}/deit-tflite-int8.tflite: the file is gone. "
            "Run edgevit convert again with this --out.",
        ),
    ],
)
def test_what_can_not_be_run_here_says_why(tmp_path: Path, target: str, message: str) -> None:
    runs.write_run(tmp_path, n=20)
    with pytest.raises(InputError) as error:
        predict.choose(tmp_path, target=target)
    assert str(error.value) == message.format(run=tmp_path)


def test_the_first_artefact_that_runs_here_is_taken(tmp_path: Path) -> None:
    runs.write_run(tmp_path, n=20)
    (tmp_path / "deit-tflite-int8.tflite").touch()
    assert predict.choose(tmp_path).title == "tflite int8"


def test_a_damaged_artefact_is_one_line(run: Path, digits: list[Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not a model")
    chosen = predict.choose(damaged, like=run)
    with pytest.raises(InputError, match="^cannot run damaged.onnx: "):
        predict.predict(chosen, digits)


@pytest.mark.toolchain
def test_a_tflite_gives_the_logits_that_were_evaluated(
    tmp_path: Path, digits: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["--target", "tflite", "--precision", "float", "--validation-images", "20"]
    assert group.run(["convert", *arguments, "--out", str(out)]) == 0
    chosen = predict.choose(out)
    manifest = chosen.run.manifest
    step = manifest.step(manifest.results[0].step)
    pixels = np.asarray(chosen.run.array(manifest.stage("validation"), "pixels.npy")[:4])
    outputs = predict.outputs_of(chosen, pixels, predict.QUIET)
    np.testing.assert_allclose(outputs, chosen.run.array(step, "outputs.npy")[:4], atol=1e-4)
    found = answers(capsys, *digits, "--model", out, "--top", "1")
    assert [each["guesses"][0]["name"] for each in found["images"]] == ["2", "5", "7"]
