"""LiteRT on a CPU: what is asked of the worker, and that its artefacts compute what torch computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.backends.litert import backend
from edgevit.backends.litert.recipes import rules
from edgevit.backends.proof import Probe
from edgevit.backends.protocol import CompileRequest, CompileResult, FloatRequest
from edgevit.backends.trials import Candidate, TrialRequest
from edgevit.errors import ToolchainError
from edgevit.files import sha256_file
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import QUIET
from edgevit.quantize.plan import PrecisionPlan
from edgevit.targets.profiles import load_board
from edgevit.toolchains import environment
from edgevit.toolchains.call import run_job

TINY = Preprocessing(size=(32, 48), mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
MEAN, STD = [255 * value for value in TINY.mean], [255 * value for value in TINY.std]
CLASSES = 7


def request(folder: Path, precision: str = "float", recipe: str = "dynamic_wi8_afp32") -> CompileRequest:
    """A request for the float file and pixels in `folder`; its artefact goes to a new folder there."""
    out = folder / f"out-{len(list(folder.glob('out-*')))}"
    out.mkdir()
    return CompileRequest(
        onnx=None,
        vendor_float=folder / "float.tflite",
        plan=PrecisionPlan(precision=precision, options={"litert": {"recipe": recipe}}),
        board=load_board("tflite"),
        preprocessing=TINY,
        calibration=folder / "calibration.npy",
        evaluate=folder / "evaluate.npy",
        out=out,
        description="what it takes",
    )


def write_pixels(folder: Path) -> None:
    random = np.random.default_rng(0)
    for name, count in (("calibration", 6), ("evaluate", 5)):
        np.save(folder / f"{name}.npy", random.integers(0, 256, (count, 32, 48, 3), dtype=np.uint8))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The calls made to a worker that does nothing, in order."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def record(toolchain: str, name: str, args: dict[str, Any], job: Path, **_: Any) -> dict[str, Any]:
        calls.append((name, args))
        if "artefact" in args:
            Path(args["artefact"]).write_bytes(b"model")
        told = {"oldest": "2.9.0", "takes": "float32"} if name == "describe" else {}
        return {"partitions": 1, "operations": {"ADD": 1}, "outside": {}, "peak_bytes": len(calls), **told}

    monkeypatch.setattr(backend, "run_job", record)
    monkeypatch.setattr(backend, "tools", lambda board: {"litert-torch": "1"})
    write_pixels(tmp_path)
    (tmp_path / "float.tflite").write_bytes(b"float")
    return calls


def test_float_is_run_as_it_is(tmp_path: Path, asked: list[tuple[str, dict[str, Any]]]) -> None:
    result = backend.make(request(tmp_path), QUIET)
    assert [name for name, _ in asked] == ["describe", "run"]
    assert asked[0][1]["description"] == "what it takes"
    assert asked[1][1]["mean"] == pytest.approx(MEAN)
    assert result.artefact.read_bytes() == b"float"
    assert result.how == "host CPU"
    assert result.details == {
        "partitions": 1,
        "operations": {"ADD": 1},
        "outside": {},
        "peak_bytes": 2,
        "needs_at_least": {"TensorFlow Lite": "2.9.0"},
        "takes": "float32",
    }


def test_int8_is_quantized_from_float_by_the_plans_recipe(
    tmp_path: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    wanted = request(tmp_path, "int8", "static_wi8_ai8")
    backend.make(wanted, QUIET)
    assert [name for name, _ in asked] == ["quantize", "describe", "run"]
    quantize = asked[0][1]
    assert quantize["model"] == str(wanted.vendor_float)
    assert (quantize["recipe"], quantize["calibration"]) == ("static_wi8_ai8", str(wanted.calibration))
    assert [path.name for path in wanted.out.rglob("*.tflite")] == ["model.tflite"]


def test_without_images_nothing_is_run(tmp_path: Path, asked: list[tuple[str, dict[str, Any]]]) -> None:
    result = backend.make(dataclasses.replace(request(tmp_path), evaluate=None), QUIET)
    assert [name for name, _ in asked] == ["describe", "partitions"]
    assert result.outputs is None


@pytest.fixture
def trial(tmp_path: Path, asked: list[tuple[str, dict[str, Any]]]) -> TrialRequest:
    """A request to try two ways, on the worker that does nothing."""
    (tmp_path / "trials").mkdir()
    return TrialRequest(
        source_model=tmp_path / "float.tflite",
        candidates=backend.candidates("cpu")[:2],
        preprocessing=TINY,
        fit=tmp_path / "calibration.npy",
        held_out=tmp_path / "evaluate.npy",
        timed=True,
        out=tmp_path / "trials",
    )


def answer(monkeypatch: pytest.MonkeyPatch, failing: str = "") -> list[str]:
    """A worker that answers trials; the one quantization whose artefact is `failing` dies."""
    calls: list[str] = []

    def reply(toolchain: str, name: str, args: dict[str, Any], job: Path, **_: Any) -> dict[str, Any]:
        calls.append(job.name)
        if failing and args.get("artefact", "").endswith(failing):
            raise ToolchainError(
                "litert-torch 0.10.0 failed in stage 'quantize'", "killed by SIGABRT", "See x"
            )
        if "artefact" in args:
            Path(args["artefact"]).write_bytes(b"model")
        if name == "run":
            np.save(args["outputs"], np.eye(5, CLASSES, dtype=np.float32))
        return {"partitions": 1, "ms": [[2.0, 2.0], *[[1.0, 1.0] for _ in args.get("models", ())[1:]]]}

    monkeypatch.setattr(backend, "run_job", reply)
    return calls


def test_candidates_are_timed_together_and_leave_the_float_files_folder_alone(
    trial: TrialRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, before = answer(monkeypatch), set(trial.source_model.parent.iterdir())
    trials = backend.measure(trial, QUIET)
    assert calls[0] == "run-float"
    assert calls[-1] == "time"
    assert len(calls) == 1 + 2 * 2 + 1
    assert set(trial.source_model.parent.iterdir()) == before
    assert trials.float_ms == (2.0, 2.0)
    assert [each.latencies_ms for each in trials.tried] == [(1.0, 1.0)] * 2
    assert trials.tried[0].details == {"partitions": 1, "bytes": 5}


def test_candidate_that_kills_the_worker_is_a_failed_trial(
    trial: TrialRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, failing="0.tflite")
    trials = backend.measure(trial, QUIET)
    assert [each.failure for each in trials.tried] == ["killed by SIGABRT", None]
    assert trials.tried[1].latencies_ms == (1.0, 1.0)


def test_every_offered_way_is_known_to_the_worker_or_spelt_out() -> None:
    for delegate in ("cpu", "npu"):
        for candidate in backend.candidates(delegate):
            asked_for = rules(candidate.label)
            assert isinstance(asked_for, list) or asked_for.startswith(("dynamic_", "static_"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny ViT's program, pixels, and torch's outputs of those to evaluate."""
    try:
        environment.python_of(backend.TOOLCHAIN)
    except ToolchainError as error:
        pytest.skip(str(error))
    import torch

    from edgevit import torch_setup  # noqa: F401
    from edgevit.export import export_program

    folder = tmp_path_factory.mktemp("tiny")
    write_pixels(folder)
    model = tiny_vit()
    export_program(model, TINY.size, 3, folder / "tiny.pt2")
    with torch.inference_mode():
        images = torch.from_numpy(TINY.normalise(np.load(folder / "evaluate.npy")))
        np.save(folder / "torch.npy", model(images).numpy())
    convert_float(folder, folder)
    return folder


def convert_float(folder: Path, out: Path, preprocessing: Preprocessing = TINY) -> Path:
    """The float file of a folder's program, proved on its pixels; the usual way has to do."""
    assert backend.LITERT.convert_float is not None
    probe = Probe(folder / "evaluate.npy", folder / "torch.npy")
    file, proof = backend.LITERT.convert_float(
        FloatRequest(folder / "tiny.pt2", probe, preprocessing, out), QUIET
    )
    assert proof.error < 1e-4 and (proof.builds, proof.left_out, proof.reason) == (1, (), None)
    return file


def tiny_vit() -> Any:
    import torch
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=TINY.size, patch_size=16, embed_dim=48, depth=2, num_heads=3, num_classes=CLASSES
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


@pytest.fixture
def tiny_trial(tiny: Path, tmp_path: Path) -> TrialRequest:
    """A request to try the tiny ViT's float file on its own pixels, untimed, with no candidate yet."""
    return TrialRequest(
        source_model=tiny / "float.tflite",
        candidates=(),
        preprocessing=TINY,
        fit=tiny / "calibration.npy",
        held_out=tiny / "evaluate.npy",
        timed=False,
        out=tmp_path,
    )


@pytest.fixture(scope="module")
def in_float(tiny: Path) -> CompileResult:
    return backend.make(request(tiny), QUIET)


def errors(result: CompileResult, tiny: Path) -> tuple[float, float]:
    """(largest output difference to torch, largest logit)."""
    assert result.outputs is not None
    outputs, wanted = np.load(result.outputs), np.load(tiny / "torch.npy")
    assert (outputs.shape, outputs.dtype) == ((5, CLASSES), np.float32)
    return float(np.abs(outputs - wanted).max()), float(np.abs(wanted).max())


@pytest.mark.toolchain
@pytest.mark.slow
def test_float_computes_what_torch_computes(tiny: Path, in_float: CompileResult) -> None:
    error, largest = errors(in_float, tiny)
    assert error < 1e-5 * largest
    assert in_float.details["partitions"] == 1
    assert in_float.details["outside"] == {}


@pytest.mark.toolchain
@pytest.mark.slow
def test_same_program_gives_the_same_bytes(tiny: Path, in_float: CompileResult, tmp_path: Path) -> None:
    again = convert_float(tiny, tmp_path)
    assert sha256_file(again) == sha256_file(tiny / "float.tflite")
    described = backend.make(request(tiny), QUIET).artefact
    assert sha256_file(described) == sha256_file(in_float.artefact)


@pytest.mark.toolchain
@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "tolerance"), [("dynamic_wi8_afp32", 0.05), ("static_wi8_ai8", 0.25)])
def test_int8_is_smaller_and_close(
    tiny: Path, in_float: CompileResult, tmp_path: Path, recipe: str, tolerance: float
) -> None:
    args = {"mean": MEAN, "std": STD, "recipe": recipe, "calibration": str(tiny / "calibration.npy")}
    artefact = quantized(in_float.artefact, tmp_path, args)
    assert artefact.stat().st_size < 0.45 * in_float.artefact.stat().st_size
    asked = {
        "model": str(artefact),
        "pixels": str(tiny / "evaluate.npy"),
        "mean": MEAN,
        "std": STD,
        "threads": 1,
    }
    run_job(
        "litert", "run", asked | {"outputs": str(tmp_path / "outputs.npy")}, tmp_path / "run", timeout_s=300
    )
    ran = dataclasses.replace(in_float, outputs=tmp_path / "outputs.npy")
    error, largest = errors(ran, tiny)
    assert 0 < error < tolerance * largest


@pytest.mark.toolchain
@pytest.mark.slow
@pytest.mark.parametrize(("delegate", "timed"), [("cpu", True), ("npu", False)])
def test_every_way_to_quantize_is_made_and_measured(
    tiny: Path, tiny_trial: TrialRequest, delegate: str, timed: bool
) -> None:
    wanted = dataclasses.replace(tiny_trial, candidates=backend.candidates(delegate), timed=timed)
    trials = backend.measure(wanted, QUIET)
    np.testing.assert_allclose(trials.reference, np.load(tiny / "torch.npy"), rtol=0, atol=1e-4)
    largest = float(np.abs(trials.reference).max())
    for each in trials.tried:
        assert each.failure is None
        assert len(each.latencies_ms) == len(trials.float_ms)
        assert (len(each.latencies_ms) >= 7) == timed
        assert delegate == "npu" or each.details["partitions"] == 1
        assert each.outputs is not None
        assert 0 < float(np.abs(each.outputs - trials.reference).max()) < 0.25 * largest


@pytest.mark.toolchain
@pytest.mark.slow
def test_fixed_ranges_hold_the_one_image_that_needs_them(
    tiny: Path, tiny_trial: TrialRequest, tmp_path: Path
) -> None:
    vivid = np.load(tiny / "evaluate.npy")[:1]
    dull = np.full((12, *vivid.shape[1:]), 128, np.uint8)
    np.save(tmp_path / "fit.npy", np.concatenate([vivid, dull]))
    np.save(tmp_path / "judge.npy", vivid)
    candidates = [Candidate("static_wi8_ai16", "int16 activations: rounding costs next to nothing")]
    wanted = dataclasses.replace(
        tiny_trial, candidates=candidates, fit=tmp_path / "fit.npy", held_out=tmp_path / "judge.npy"
    )
    trials = backend.measure(wanted, QUIET)
    outputs = trials.tried[0].outputs
    assert outputs is not None
    assert np.abs(outputs - trials.reference).max() < 0.02 * np.abs(trials.reference).max()


@pytest.mark.toolchain
def test_unknown_recipe_names_the_known(in_float: CompileResult, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError) as caught:
        quantized(in_float.artefact, tmp_path, {"recipe": "int8"})
    assert str(caught.value) == (
        "litert-torch 0.10.0 failed in stage 'quantize': no recipe named 'int8'; the usual ones are "
        "dynamic_wi8_afp32, static_wi8_ai8, static_wi8_ai16, weight_only_wi8_afp32. "
        f"See {tmp_path / 'quantize' / 'log.txt'}."
    )
    assert not (tmp_path / "quantized.tflite").exists()


@pytest.mark.toolchain
@pytest.mark.slow
def test_a_constant_on_the_left_of_a_product_stays_float(tmp_path: Path) -> None:
    """Its kernels refuse an int8 one there: EfficientViM could not be quantized."""
    import torch
    from torch import nn

    from edgevit.export import export_program

    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patches, self.head = nn.Conv2d(3, 24, 16, stride=16), nn.Linear(24, CLASSES)
            self.mix = nn.Parameter(torch.randn(24, 24) / 5)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head((self.mix @ self.patches(image).flatten(2)).mean(2))
            return logits

    write_pixels(tmp_path)
    module = Left().eval().requires_grad_(False)
    pixels = torch.from_numpy(TINY.normalise(np.load(tmp_path / "evaluate.npy")))
    np.save(tmp_path / "torch.npy", module(pixels).numpy())
    export_program(module, TINY.size, 3, tmp_path / "tiny.pt2")
    convert_float(tmp_path, tmp_path)
    result = backend.make(request(tmp_path, "int8"), QUIET)
    off, largest = errors(result, tmp_path)
    assert 1e-4 * largest < off < 0.05 * largest  # the layers around it are in int8


@pytest.mark.toolchain
def test_damaged_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"not a model")
    with pytest.raises(ToolchainError) as caught:
        quantized(tmp_path / "model.tflite", tmp_path, {"recipe": "dynamic_wi8_afp32"})
    assert str(caught.value).startswith("litert-torch 0.10.0 failed in stage 'quantize': ")
    assert str(caught.value).endswith(f"See {tmp_path / 'quantize' / 'log.txt'}.")


def quantized(model: Path, folder: Path, args: dict[str, Any]) -> Path:
    artefact = folder / "quantized.tflite"
    paths = {"model": str(model), "artefact": str(artefact)}
    run_job("litert", "quantize", paths | args, folder / "quantize", timeout_s=300)
    return artefact


@pytest.mark.toolchain
@pytest.mark.yardstick
@pytest.mark.slow
def test_trained_model_keeps_its_logits_in_float(reference_data: Path, tmp_path: Path) -> None:
    import torch

    from edgevit.export import export_program
    from edgevit.images import read_image_set
    from edgevit.images import write_pixels as write_photographs
    from edgevit.models import load_model

    weights = reference_data / "deit-tiny" / "deit_tiny_patch16_224.safetensors"
    loaded = load_model("deit_tiny_patch16_224", weights)
    csv = reference_data / "imagenet-dev" / "validation.csv"
    images = read_image_set(csv, num_classes=1000, labelled=True, limit=16, seed=0, progress=QUIET)
    write_photographs(images, loaded.preprocessing, tmp_path / "evaluate.npy", QUIET)
    export_program(loaded.module, loaded.preprocessing.size, 3, tmp_path / "tiny.pt2")
    with torch.inference_mode():
        pixels = np.load(tmp_path / "evaluate.npy")
        wanted = loaded.module(torch.from_numpy(loaded.preprocessing.normalise(pixels))).numpy()
    np.save(tmp_path / "torch.npy", wanted)
    convert_float(tmp_path, tmp_path, loaded.preprocessing)
    asked = dataclasses.replace(request(tmp_path), preprocessing=loaded.preprocessing)
    result = backend.make(asked, QUIET)
    assert result.outputs is not None
    np.testing.assert_allclose(np.load(result.outputs), wanted, rtol=0, atol=1e-4)
