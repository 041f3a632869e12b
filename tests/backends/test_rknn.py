"""Builds for Rockchip NPUs: what is asked of the toolkit, what its failures become, what its artefacts compute."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.backends.proof import relative_error
from edgevit.backends.protocol import CompileRequest, CompileResult
from edgevit.backends.rknn import backend, build
from edgevit.errors import InputError, ToolchainError
from edgevit.images.preprocessing import Preprocessing
from edgevit.placement.layers import Placement
from edgevit.progress import Quiet
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import load_board
from edgevit.toolchains import call, environment
from tests.placement.recordings import recorded

TINY = Preprocessing(size=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
STEP_1 = ("model", "target", "mean", "std", "calibration")
GREY = Preprocessing(size=(32, 32), mean=(0.4,), std=(0.3,), channels="L")


def request(
    folder: Path,
    board: str = "rk3588",
    precision: str = "int8",
    preprocessing: Preprocessing = TINY,
    *,
    algorithm: str = "normal",
) -> CompileRequest:
    """A request for the tiny model in `folder`; its artefact goes to a new folder there."""
    out = folder / f"out-{len(list(folder.glob('out-*')))}"
    out.mkdir()
    return CompileRequest(
        onnx=folder / "tiny.onnx",
        vendor_float=None,
        plan=PrecisionPlan(precision=precision, options={"rknn": {"algorithm": algorithm}}),
        board=load_board(board),
        preprocessing=preprocessing,
        calibration=folder / "calibration.npy",
        evaluate=folder / "evaluate.npy",
        out=out,
    )


@pytest.fixture
def scripted_job(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Let each build die in the next of three fusion rules, then succeed; gives the arguments of each."""
    asked: list[dict[str, Any]] = []
    rules = ["fuse_one", "fuse_two', 'fuse_three"]

    def run_job(toolchain: str, name: str, args: dict[str, Any], job: Path, **_: Any) -> dict[str, Any]:
        job.mkdir(parents=True)
        asked.append(args)
        if len(asked) > len(rules):
            (job / "log.txt").write_text("built\n")
            return {"ok": True}
        advice = (
            f"\x1b[1;33mW\x1b[0m You can add disable_rules=['{rules[len(asked) - 1]}'] in backend.config()\n"
        )
        (job / "log.txt").write_text(advice)
        raise ToolchainError("rknn-toolkit2 failed in stage 'build'", "NoneType", "See the log")

    monkeypatch.setattr(build, "run_job", run_job)
    return asked


def test_each_fusion_rule_that_dies_is_switched_off(
    scripted_job: list[dict[str, Any]], tmp_path: Path
) -> None:
    progress = Quiet()
    built = build.build("rknn", "build", {"model": "m"}, tmp_path, progress, 10)
    asked = [args["disable_rules"] for args in scripted_job]
    assert asked == [[], ["fuse_one"], ["fuse_one", "fuse_two", "fuse_three"]]
    assert built.disabled_rules == ("fuse_one", "fuse_two", "fuse_three")
    assert built.log == "built\n"
    assert progress.warnings == [
        "the toolkit's fuse_one fails on this model; building without it",
        "the toolkit's fuse_two and fuse_three fails on this model; building without it",
    ]


def test_failure_without_a_new_rule_to_blame_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    attempts = []

    def run_job(toolchain: str, name: str, args: dict[str, Any], job: Path, **_: Any) -> dict[str, Any]:
        job.mkdir(parents=True)
        attempts.append(args["disable_rules"])
        (job / "log.txt").write_text("You can add disable_rules=['fuse_one'] in backend.config()")
        raise ToolchainError("rknn-toolkit2 failed in stage 'build'", "NoneType", "See the log")

    monkeypatch.setattr(build, "run_job", run_job)
    with pytest.raises(ToolchainError) as caught:
        build.build("rknn", "build", {}, tmp_path, Quiet(), 10)
    assert attempts == [[], ["fuse_one"]]
    assert str(caught.value) == (
        "rknn-toolkit2 failed in stage 'build': NoneType. "
        "See the log, or try another release: --toolkit rknn@2.3.2."
    )


def test_rule_to_disable_is_read_from_the_toolkits_own_log() -> None:
    assert build.rules_to_disable(recorded("levit-rk3588-int8-rule-fails")) == ["fuse_conv_conv_add"]
    assert build.rules_to_disable(recorded("tiny-rk3588-int8")) == []


def test_only_warnings_with_a_consequence_are_shown() -> None:
    def shown(name: str) -> list[str]:
        return backend.warnings_in(build.COLOUR.sub("", recorded(name)))

    assert shown("deit-rk3588-int8") == []
    assert shown("tiny-rv1106-int8") == []
    assert shown("efficientformer-rk3588-int8") == ["AveragePool count_include_pad=0, fallback to cpu"]
    first = "hybrid_quantization_step2: Adjust scale of bias 'blocks.0.bias'!"
    several = "".join(
        f"W hybrid_quantization_step2: Adjust scale of bias 'blocks.{index}.bias'!\n" for index in range(12)
    )
    assert backend.warnings_in(several) == [first + " (and 11 like it)"]


def test_mean_and_std_are_handed_over_in_pixel_units(tmp_path: Path) -> None:
    arguments = backend.worker_arguments(request(tmp_path), tmp_path / "m.rknn", tmp_path / "l.npy")
    assert arguments["mean"] == pytest.approx([127.5, 102.0, 76.5])
    assert arguments["std"] == pytest.approx([127.5, 63.75, 51.0])


def test_float_build_needs_no_calibration(tmp_path: Path) -> None:
    arguments = backend.worker_arguments(request(tmp_path, precision="float"), tmp_path / "m", tmp_path / "l")
    assert (arguments["quantize"], arguments["calibration"]) == (False, None)


def test_board_without_an_npu_is_refused(tmp_path: Path) -> None:
    asked = request(tmp_path, board="onnx")
    with pytest.raises(InputError) as raised:
        backend.worker_arguments(asked, tmp_path / "m", tmp_path / "l")
    assert str(raised.value) == (
        f"cannot compile for {asked.board.name}: its backend needs an ONNX graph and a board profile with an "
        "[npu] section. Add npu.target to the profile."
    )


# --- with the vendor's toolchain ---


@pytest.fixture(scope="module", params=[3, 1], ids=["rgb", "grey"])
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Preprocessing]:
    """A folder with a 2-block ViT as ONNX, and pixels whose channels and axes all differ."""
    if environment.state("rknn").problem:
        pytest.skip("the rknn toolchain is not installed")
    from edgevit import torch_setup  # noqa: F401, I001
    import timm
    import torch

    folder, channels = tmp_path_factory.mktemp("tiny"), request.param
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 4, "depth": 2, "embed_dim": 64, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, in_chans=channels, **shape).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and not parameter.any():  # zero biases crash the toolkit
            torch.nn.init.normal_(parameter, std=0.02)
    example = (torch.zeros(1, channels, 32, 32),)
    names = {"input_names": ["input"], "output_names": ["logits"]}
    torch.onnx.export(model, example, folder / "tiny.onnx", opset_version=17, dynamo=False, **names)
    rows, columns, layers = np.meshgrid(np.arange(32), np.arange(32), np.arange(channels), indexing="ij")
    ramp = 4 * rows + 2 * columns + 20 * layers
    noise = np.random.default_rng(0).integers(0, 60, (24, 32, 32, channels))
    pixels = (ramp + noise).clip(0, 255).astype(np.uint8)
    np.save(folder / "calibration.npy", pixels[:16])
    np.save(folder / "evaluate.npy", pixels[16:])
    return folder, TINY if channels == 3 else GREY


def float_outputs(folder: Path, preprocessing: Preprocessing, images: str) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "tiny.onnx")
    inputs = preprocessing.normalise(np.load(folder / f"{images}.npy"))
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in inputs])


def compiled(tiny: tuple[Path, Preprocessing], board: str, precision: str, **options: str) -> CompileResult:
    return backend.make(request(tiny[0], board, precision, tiny[1], **options), Quiet())


@pytest.mark.toolchain
@pytest.mark.filterwarnings("ignore")
def test_simulated_float16_build_computes_the_float_logits(tiny: tuple[Path, Preprocessing]) -> None:
    result = compiled(tiny, "rk3588", "float")
    assert result.outputs is not None
    expected = float_outputs(*tiny, "evaluate")
    np.testing.assert_allclose(np.load(result.outputs), expected, atol=0.01 * np.abs(expected).max())
    assert result.how == "vendor simulator"
    assert result.tools == {"rknn-toolkit2": "2.5.0"}


@pytest.mark.toolchain
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_another_release_of_the_toolkit_builds_what_this_one_builds(
    tiny: tuple[Path, Preprocessing], precision: str
) -> None:
    asked = request(tiny[0], "rk3588", precision, tiny[1])
    other = replace(asked, board=asked.board.model_copy(update={"toolkit": "2.3.2"}))
    if environment.state(other.board.toolchain).problem:
        pytest.skip("the older release is not installed")
    result = backend.make(other, Quiet())
    assert result.outputs is not None
    assert result.tools == {"rknn-toolkit2": "2.3.2"}
    outputs, expected = np.load(result.outputs), float_outputs(*tiny, "evaluate")
    assert relative_error(outputs, expected) < (0.01 if precision == "float" else 0.3)
    assert Placement.from_json(result.details["placement"]).cycles > 0


@pytest.mark.toolchain
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("board", ["rk3588", "rk3576", "rk3566", "rv1106"])
def test_int8_build_follows_the_float_logits(tiny: tuple[Path, Preprocessing], board: str) -> None:
    result = compiled(tiny, board, "int8")
    assert result.outputs is not None
    outputs, expected = np.load(result.outputs), float_outputs(*tiny, "evaluate")
    assert outputs.dtype == np.float32
    cosine = (outputs * expected).sum() / np.linalg.norm(outputs) / np.linalg.norm(expected)
    assert cosine > 0.9
    assert Placement.from_json(result.details["placement"]).cycles > 0


@pytest.mark.toolchain
@pytest.mark.filterwarnings("ignore")
def test_building_twice_gives_the_same_function_in_nearly_the_same_bytes(
    tiny: tuple[Path, Preprocessing],
) -> None:
    first, second = (compiled(tiny, "rk3588", "int8") for _ in range(2))
    assert first.outputs is not None
    assert second.outputs is not None
    np.testing.assert_array_equal(np.load(first.outputs), np.load(second.outputs))
    bytes_of = [np.fromfile(result.artefact, dtype=np.uint8) for result in (first, second)]
    assert bytes_of[0].size == bytes_of[1].size
    # The compiler writes host addresses into unused fields; on a busy machine they may still vary.
    assert (bytes_of[0] != bytes_of[1]).sum() < 2000


@pytest.mark.toolchain
@pytest.mark.filterwarnings("ignore")
def test_abort_inside_the_compiler_is_one_error(tiny: tuple[Path, Preprocessing]) -> None:
    with pytest.raises(ToolchainError, match="killed by SIGABRT; it last said: .*Meet unsupported conv"):
        compiled(tiny, "rk2118", "int8")


@pytest.mark.toolchain
@pytest.mark.filterwarnings("ignore")
def test_calibration_sees_what_the_float_model_sees(tiny: tuple[Path, Preprocessing]) -> None:
    folder, preprocessing = tiny
    asked = request(folder, "rk3588", "int8", preprocessing)
    values = backend.worker_arguments(asked, folder / "unused.rknn", folder / "unused.npy")
    first = {name: values[name] for name in STEP_1}
    step1 = call.run_job("rknn", "hybrid_step1", first, asked.out, timeout_s=120)
    table = Path(step1["table"]).read_text()
    found = re.search(r"(?ms)^    logits:$.*?min:\n +- +(\S+)\n +max:\n +- +(\S+)", table)
    assert found is not None
    outputs = float_outputs(folder, preprocessing, "calibration")
    assert (float(found[1]), float(found[2])) == pytest.approx((outputs.min(), outputs.max()), rel=1e-4)


@pytest.mark.toolchain
@pytest.mark.filterwarnings("ignore")
def test_two_hybrid_steps_compute_what_one_build_does(tiny: tuple[Path, Preprocessing]) -> None:
    folder, preprocessing = tiny
    asked = request(folder, "rk3588", "int8", preprocessing)
    built = backend.make(asked, Quiet())
    values = backend.worker_arguments(asked, folder / "hybrid.rknn", folder / "hybrid.npy")
    first = {name: values[name] for name in STEP_1}
    second = {name: values[name] for name in ("artefact", "evaluate", "outputs")}
    job = asked.out / "hybrid"
    step1 = call.run_job("rknn", "hybrid_step1", first, job, timeout_s=120)
    second |= {name: step1[name] for name in ("graph", "data", "table")}
    call.run_job("rknn", "hybrid_step2", second, job, timeout_s=120)
    assert built.outputs is not None
    np.testing.assert_array_equal(np.load(folder / "hybrid.npy"), np.load(built.outputs))
