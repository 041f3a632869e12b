"""Everything a user can get wrong is one line that says what, why and what to do."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edgevit.run.folder import open_run
from tests.conversion.conftest import Project


def timm_error(project: Project, weights: str, code: int = 1) -> str:
    done = project.run(
        *("convert", "vit_tiny_patch16_224", "--weights", weights, "--target", "onnx"),
        *("--precision", "float"),
        check=code,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_no_such_weights(project: Project) -> None:
    assert "gone.safetensors: no such file" in timm_error(project, "gone.safetensors")


def test_text_file_named_safetensors(project: Project) -> None:
    (project.folder / "fake.safetensors").write_text("hello, I am text")
    assert "fake.safetensors" in timm_error(project, "fake.safetensors")


def test_state_dict_of_another_model(project: Project) -> None:
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, project.folder / "resnet.safetensors")
    assert "resnet.safetensors" in timm_error(project, "resnet.safetensors")


def test_nan_in_weights(project: Project) -> None:
    save_file({"head.weight": torch.full((3, 4), float("nan"))}, project.folder / "nan.safetensors")
    assert "NaN" in timm_error(project, "nan.safetensors")


def test_class_count_that_does_not_match_the_labels(project: Project) -> None:
    first = next((project.folder / "images" / "validation").rglob("*.png"))
    (project.folder / "list.csv").write_text(f"path,label\n{first},7\n")
    assert "has label 7 and the model has classes 0 to 2" in project.error("--validation", "list.csv")


def test_empty_folder(project: Project) -> None:
    (project.folder / "empty").mkdir()
    assert project.error("--calibration", "empty").startswith("no images in empty: ")


def test_folder_of_non_images(project: Project) -> None:
    (project.folder / "texts").mkdir()
    for index in range(5):
        (project.folder / "texts" / f"{index}.jpg").write_text("no image")
    assert "5 of 5 files are unreadable" in project.error("--calibration", "texts")


def test_overlapping_sets(project: Project) -> None:
    line = project.error("--validation", "images/calibration")
    assert line.startswith("calibration and validation images overlap: 8 images are in both, for example ")


def test_truncated_jpeg_among_good_ones_is_named_and_the_run_goes_on(project: Project) -> None:
    folder = project.folder / "images" / "calibration" / "class0"
    Image.new("RGB", (64, 64), "red").save(folder / "good.jpg")
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:400])
    assert "warning: skipped cut.jpg: " in project.convert().stderr
    assert project.manifest()["images"]["calibration"]["skipped"][0][0] == "cut.jpg"


def test_unknown_target_names_the_nearest(project: Project) -> None:
    line = project.error("--target", "rk3589")
    assert line.startswith("unknown target 'rk3589': no shipped file has that name. Did you mean rk3588? ")


def test_precision_a_platform_lacks_is_refused_with_the_reason(project: Project) -> None:
    line = project.error("--target", "rv1106", "--precision", "float")
    assert line.startswith("rv1106 can't run float: ")
    assert line.endswith("Use --precision int8.")


def test_int8_without_calibration_images(project: Project) -> None:
    done = project.run("convert", "model.py:tiny", "--target", "onnx", check=1)
    assert done.stderr == (
        "error: cannot quantize to int8: no calibration images. Pass --calibration with a folder or CSV of "
        "64 or more typical images, or use --precision float.\n"
    )


def test_no_toolchain_installed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_TOOLCHAINS", str(project.folder / "none"))
    assert project.error("--target", "rk3588") == (
        'cannot use the rknn toolchain: it is not installed. Run "edgevit toolchain install rknn".'
    )


def test_second_convert_into_the_same_run(project: Project) -> None:
    with open_run(project.folder / "runs" / "model"):
        line = project.error()
    assert (
        line
        == "cannot write to runs/model: another edgevit is using it. Wait for it, or choose another --out."
    )


def test_output_folder_that_is_a_file(project: Project) -> None:
    (project.folder / "runs").write_text("in the way")
    assert project.error().startswith("cannot write to runs/model: ")


@pytest.mark.slow
def test_read_only_and_full_file_systems(project: Project, tmp_path: Path) -> None:
    disk = project.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        line = project.error("--out", "disk/run")
        assert line.startswith("cannot write to disk/run: ")
        assert "MB free" in line
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        line = project.error("--out", "disk/other")
        assert line == (
            "cannot write to disk/other: read-only file system. Choose another folder with --out."
        )
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("name", ["cmyk.jpg", "grey.png", "sixteen.png", "rotated.jpg"])
def test_unusual_images_simply_work(project: Project, name: str) -> None:
    folder = project.folder / "images" / "calibration" / "class0"
    picture = Image.linear_gradient("L").resize((50, 40))
    exif = Image.Exif()
    if name == "cmyk.jpg":
        picture.convert("CMYK").save(folder / name)
    elif name == "sixteen.png":
        picture.convert("I").point(lambda value: value * 257).convert("I;16").save(folder / name)
    else:
        exif[0x0112] = 8
        picture.save(folder / name, exif=exif)
    project.convert("--precision", "float")
    calibration = project.manifest()["images"]["calibration"]
    assert (calibration["n"], calibration["skipped"]) == (9, [])


def test_delegate_that_no_target_has(project: Project) -> None:
    assert project.error("--delegate", "npu") == (
        "cannot use --delegate npu: no target's artefacts run on one. "
        "Add a target whose do, such as tflite, or leave the option out."
    )


def test_way_to_quantize_that_does_not_exist(project: Project) -> None:
    (project.folder / "mine.toml").write_text(
        'precision = "int8"\n[options.onnxruntime]\nrecipe = "dinamic"\n'
    )
    assert project.error("--plan", "mine.toml") == (
        "cannot use --plan mine.toml: options.onnxruntime: recipe: input should be 'dynamic', 'dynamic_7bit', "
        "'dynamic_static_convolution' or 'static_linear_convolution'. Correct the value."
    )
