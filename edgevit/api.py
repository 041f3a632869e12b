"""The library: what `import edgevit` gives. Objects in, objects out, no exit codes; errors are EdgevitError.

Progress is drawn on standard error or in the notebook; `progress=edgevit.progress.QUIET` turns it off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.backends.registry import load_target
from edgevit.errors import EdgevitError, InputError
from edgevit.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from edgevit.models.model import LoadedModel, finish
from edgevit.placement.estimate import Estimate
from edgevit.placement.layers import CpuOp
from edgevit.prediction.predict import Prediction
from edgevit.progress import Progress
from edgevit.run.reading import RunFiles as Run
from edgevit.run.reading import read_run
from edgevit.run.results import Result
from edgevit.targets.precisions import DEFAULT
from edgevit.targets.profiles import Board, shipped

if TYPE_CHECKING:
    from torch import nn

    from edgevit.finetuning.finetune import Finetuned
    from edgevit.request.job import Job

__all__ = [
    "Board", "EdgevitError", "Inspection", "LoadedModel", "Prediction", "Preprocessing", "Result", "Run",
    "board", "boards", "bundle", "convert", "finetune", "inspect", "load", "open", "predict", "report", "wrap",
]  # fmt: skip

AnyPath = str | PathLike[str]
Target = str | Board


@dataclass(frozen=True)
class Inspection:
    """What the vendor's compiler made of one artefact, without a board.

    `cycles` (an NPU's, for one image on one core), `cpu_ops` and `latency` are None or empty for other backends.
    `record` holds everything, every layer included.
    """

    target: str
    precision: str
    bytes: int
    cycles: int | None
    cpu_ops: tuple[CpuOp, ...]
    latency: Estimate | None
    record: dict[str, Any]

    def _repr_html_(self) -> str:
        """A line for notebooks."""
        cycles = "" if self.cycles is None else f", {self.cycles:,} cycles an image"
        left = sum(op.count for op in self.cpu_ops)
        text = f"{self.target} {self.precision}: {self.bytes / 1e6:.1f} MB{cycles}, {left} layers on the CPU"
        return f"<p>{escape(text)}</p>"


def load(
    name: str,
    weights: AnyPath | None = None,
    *,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
) -> LoadedModel:
    """Load a model by timm name, `torchvision:NAME`, Hugging Face folder, `file.py:function` or .onnx file.

    `weights` is a safetensors or torch file, read without running code in it; `size` is (height, width) in
    pixels. Raises EdgevitError.

        model = edgevit.load("deit_tiny_patch16_224", weights="my.safetensors")
    """
    from edgevit.models import load_model

    return load_model(name, None if weights is None else Path(weights), num_classes=num_classes, size=size)


def wrap(
    module: nn.Module,
    size: int | tuple[int, int],
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    crop_pct: float = 0.875,
    interpolation: str = "bicubic",
    labels: Sequence[str] | None = None,
    name: str | None = None,
) -> LoadedModel:
    """A live module as a model to convert: it takes images float32 [n, channels, height, width], gives outputs.

    `size` is its input's (height, width), or one number for both; `mean` and `std` are in units of 0..1. The
    module is put in eval mode, on the CPU, in float32. Raises InputError where it doesn't run or give outputs.

        model = edgevit.wrap(net, size=224, name="my-vit")
    """
    both = (size, size) if isinstance(size, int) else size
    preprocessing = Preprocessing(
        both, crop_pct=crop_pct, interpolation=interpolation, mean=tuple(mean), std=tuple(std)
    )
    kind = type(module).__name__
    return finish(
        name or kind, module, preprocessing, source=f"live {kind}", labels=tuple(labels) if labels else None
    )


def boards() -> list[str]:
    """Names of the boards that edgevit knows."""
    return shipped("boards")


def board(name: str) -> Board:
    """A board by its name or the path of its TOML file. Raises InputError with the nearest name."""
    return load_target(name)


def convert(
    model: LoadedModel | str,
    targets: Target | Iterable[Target],
    *,
    calibration: AnyPath | None = None,
    validation: AnyPath | None = None,
    precisions: Sequence[str] = (DEFAULT,),
    out: AnyPath | None = None,
    recipe: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Convert a model for one or more targets, measure what was lost, return the run.

    `calibration` and `validation` are folders or CSV files of images, `out` the run's folder. `options` are those
    of the command line, with underscores: max_drop, search_minutes, resolution, prune_heads, seed ... A missed
    `max_drop` is told by `result.gate`. Raises EdgevitError; where only some targets fail, after the others are
    written.

        run = edgevit.convert(model, ["rk3588", "tflite"], calibration="calib/", validation="val/")
        for result in run.results:
            print(result.title, run.path_of(result), result.accuracy.drop_points)
    """
    from edgevit.conversion.manifest import refuse_incomplete
    from edgevit.conversion.whole_run import run_job
    from edgevit.request.job import DEMO

    name = model if isinstance(model, str) else model.name
    live = None if isinstance(model, str) else model
    if live is not None and name == DEMO:
        raise InputError(
            f"cannot convert a model called {DEMO}", "it is the bundled one's name", "Name it otherwise"
        )
    job = job_of(
        name, targets, precisions, recipe, out, calibration=calibration, validation=validation, **options
    )
    with shown(progress) as listener:
        manifest, outcomes = run_job(job, listener, live=live)
    refuse_incomplete(manifest, outcomes)  # now that the others are written
    return read_run(job.out)


def inspect(
    model: LoadedModel | str,
    targets: Target | Iterable[Target],
    *,
    precisions: Sequence[str] = (DEFAULT,),
    progress: Progress | None = None,
    **options: Any,
) -> list[Inspection]:
    """Where each op of a model runs and what it costs by the vendor's compiler: one record a target and type."""
    from edgevit.conversion import inspection
    from edgevit.run.folder import open_run

    name = model if isinstance(model, str) else model.name
    job = job_of(name, targets, precisions, None, None, images=False, **options)
    with open_run(None) as run, shown(progress) as listener:
        records = inspection.inspect(
            job, run, listener, before_after=False, live=None if isinstance(model, str) else model
        )
    return [
        Inspection(
            target=each["target"],
            precision=each["precision"],
            bytes=each["bytes"],
            cycles=each.get("cycles"),
            cpu_ops=tuple(CpuOp(**op) for op in each.get("cpu_ops", ())),
            latency=Estimate(**each["latency"]) if each.get("latency") else None,
            record=each,
        )
        for each in records
    ]


def predict(
    run: Run | AnyPath,
    images: AnyPath | Iterable[AnyPath],
    *,
    target: str | None = None,
    precision: str | None = None,
    top: int = 5,
    progress: Progress | None = None,
) -> list[Prediction]:
    """The likeliest classes of pictures, by an artefact of a run that this machine can run.

    A picture that can't be read has its `error` instead of guesses. Raises EdgevitError.
    """
    from edgevit.prediction import predict as answers

    source = answers.choose(
        run.folder if isinstance(run, Run) else Path(run), target=target, precision=precision
    )
    paths = [images] if isinstance(images, str | PathLike) else list(images)
    with shown(progress) as listener:
        return answers.predict(source, [Path(each) for each in paths], top=top, progress=listener).found


def finetune(model: str, train: AnyPath, *, progress: Progress | None = None, **options: Any) -> Finetuned:
    """Teach a model the classes of folders of pictures; the result's `folder` is a model for `convert`.

    `options` are those of the command line, with underscores: validation, freeze, epochs, minutes, out, weights ...
    Raises EdgevitError.

        found = edgevit.finetune("deit_tiny_patch16_224", "defects/train", validation="defects/test")
        run = edgevit.convert(str(found.folder), "rk3588", calibration="defects/train", validation="defects/test")
    """
    from edgevit.finetuning.finetune import finetune as learn
    from edgevit.finetuning.job import make_finetune_job

    job = make_finetune_job(model, Path(train), **as_paths(options))
    with shown(progress) as listener:
        return learn(job, listener)


def bundle(
    run: Run | AnyPath, out: AnyPath | None = None, *, target: str | None = None, precision: str | None = None
) -> Path:
    """What a device without edgevit needs of one artefact, in a folder or a .zip; returns its path."""
    from edgevit.bundling.make import make_bundle

    folder = run.folder if isinstance(run, Run) else Path(run)
    return make_bundle(folder, None if out is None else Path(out), target=target, precision=precision)


def report(runs: Run | AnyPath | Iterable[Run | AnyPath], out: AnyPath | None = None) -> Path:
    """Write a report on one or more runs (.html, .md or .json by `out`'s name); returns its path."""
    from edgevit.files import refuse_to_overwrite
    from edgevit.reporting.build import build
    from edgevit.reporting.writing import destinations, write

    several = [runs] if isinstance(runs, Run | str | PathLike) else list(runs)
    read = [each if isinstance(each, Run) else open(each) for each in several]
    files = destinations(None if out is None else Path(out), (), [each.folder for each in read])
    for path in files.values():
        refuse_to_overwrite(path, [kept for each in read for kept in each.kept()])
    write(build(read), files)
    return next(iter(files.values()))


def open(folder: AnyPath) -> Run:
    """A finished run by its folder. Raises InputError where it holds none, or a damaged one."""
    return read_run(Path(folder), "cannot open")


def job_of(
    name: str,
    targets: Target | Iterable[Target],
    precisions: Sequence[str],
    recipe: str | None,
    out: AnyPath | None,
    **options: Any,
) -> Job:
    """A request from what a library user gives: names or boards, any kind of path."""
    from edgevit.request.job import make_job

    several = (targets,) if isinstance(targets, str | Board) else tuple(targets)
    paths = as_paths(options)
    if isinstance(paths.get("outputs"), str):
        paths["outputs"] = (paths["outputs"],)
    kinds = (precisions,) if isinstance(precisions, str) else tuple(precisions)
    return make_job(name, several, kinds, recipe, None if out is None else Path(out), **paths)


PATHS = (
    "weights",
    "calibration",
    "validation",
    "recover_images",
    "plan",
    "out",
    "text_embeddings",
    "label_maps",
    "annotations",
    "teacher_weights",
)


def as_paths(options: dict[str, Any]) -> dict[str, Any]:
    """Options with those that are files or folders as paths."""
    return {
        key: Path(value) if key in PATHS and value is not None else value for key, value in options.items()
    }


@contextmanager
def shown(progress: Progress | None) -> Iterator[Progress]:
    """The caller's progress, or one that is drawn where people look."""
    if progress is not None:
        yield progress
        return
    from edgevit.console import progress as drawn

    with drawn() as bars:
        yield bars
