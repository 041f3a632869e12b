"""What the user asked for, checked before any work begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgevit.backends.registry import backend_of, check_options
from edgevit.errors import InputError
from edgevit.images.preprocessing_request import PreprocessingRequest, parse_preprocessing
from edgevit.metrics.acceptance import Acceptance
from edgevit.quantize.plan import PrecisionPlan, read_plan
from edgevit.request.compression import CompressionRequest, parse_compression
from edgevit.rewrites.roles import FOR_INT8
from edgevit.targets.precisions import DEFAULT, quantized
from edgevit.targets.profiles import Board, Recipe, load_board, load_recipe, shipped
from edgevit.toolchains import releases

DEMO = "demo"
DEFAULT_RECIPE = "conditioned"
PLAIN_RECIPE = "vendor-default"


@dataclass(frozen=True)
class Job:
    """One conversion: a model, images, and where it is to run. `model` "demo" is the bundled one."""

    model: str
    out: Path
    targets: tuple[Board, ...]
    recipe: Recipe
    precisions: tuple[str, ...] = (DEFAULT,)
    weights: Path | None = None
    calibration: Path | None = None
    validation: Path | None = None
    calibration_images: int | None = None
    validation_images: int | None = None
    max_drop: float | None = None
    seed: int = 0
    side_by_side: int | None = None
    without: tuple[str, ...] = ()
    images: bool = True
    plan: PrecisionPlan | None = None
    search_minutes: float = 0.0
    delegate: str = "cpu"
    toolkits: tuple[str, ...] = ()
    compression: CompressionRequest = CompressionRequest()
    heads_ahead: tuple[int | float, ...] = ()  # what other jobs of a sweep remove: chosen in one go
    preprocessing: PreprocessingRequest = PreprocessingRequest()
    outputs: tuple[str, ...] = ()
    normalize: bool = False
    metric: str | None = None
    text_embeddings: Path | None = None
    label_maps: Path | None = None
    annotations: Path | None = None

    @property
    def acceptance(self) -> Acceptance:
        """What may be lost: the user's limit, or the default."""
        # Another metric has a unit of its own, in which calibration images say nothing.
        own = self.max_drop is None or self.metric is not None
        return Acceptance() if own or self.max_drop is None else Acceptance(self.max_drop)

    @property
    def name(self) -> str:
        """A file-name-safe name of the model."""
        stem = (
            Path(self.model.partition(":")[0]).stem
            if self.model.endswith(".py") or ".py:" in self.model
            else self.model.removesuffix(".onnx")
        )
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(stem).name)
        return safe.strip(".-") or "model"

    def to_json(self) -> dict[str, Any]:
        """The resolved configuration, for the manifest."""
        return {
            "model": self.model,
            "weights": text(self.weights),
            "calibration": text(self.calibration),
            "validation": text(self.validation),
            "calibration_images": self.calibration_images,
            "validation_images": self.validation_images,
            "targets": [board.id for board in self.targets],
            "precisions": list(self.precisions),
            "recipe": self.recipe.id,
            "without": list(self.without),
            "compression": self.compression.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "outputs": list(self.outputs),
            "normalize": self.normalize,
            "metric": self.metric,
            "text_embeddings": text(self.text_embeddings),
            "label_maps": text(self.label_maps),
            "annotations": text(self.annotations),
            "max_drop": self.max_drop,
            "plan": None if self.plan is None else self.plan.to_json(),
            "search_minutes": self.search_minutes,
            "delegate": self.delegate,
            "toolkits": list(self.toolkits),
            "seed": self.seed,
        }


def text(path: Path | None) -> str | None:
    """A path as JSON."""
    return None if path is None else str(path)


def file_of(model: str) -> Path:
    """The file or folder that a model is named by, where it is named by one."""
    return Path(model.partition(":")[0] if ".py:" in model else model)


def whole_path(model: str) -> str:
    """A model's name that means the same in every folder, where it is a file's or a folder's."""
    return str(Path(model).absolute()) if file_of(model).exists() else model


def by_whole_paths(job: Job) -> Job:
    """The job with paths that mean the same in every folder and on every machine that shares them."""
    given = {name: getattr(job, name) for name in ("weights", "calibration", "validation")}
    whole = {name: each.absolute() for name, each in given.items() if each is not None and each.exists()}
    return replace(job, model=whole_path(job.model), **whole)


def make_job(
    model: str,
    targets: tuple[str | Board, ...],
    precisions: tuple[str, ...],
    recipe: str | None,
    out: Path | None,
    *,
    images: bool = True,
    plan: Path | None = None,
    search_minutes: float | None = None,
    **options: Any,
) -> Job:
    """Resolve names into profiles and check that the request makes sense. Raises InputError.

    With `images` False nothing is measured, and noise stands in for calibration images.
    """
    if not targets:
        raise InputError(
            "no target", "--target was not given", f"Choose one or more of {', '.join(shipped('boards'))}"
        )
    chosen = load_recipe(recipe or (DEFAULT_RECIPE if images else PLAIN_RECIPE))
    job = Job(
        model=model,
        out=Path(),
        targets=with_toolkits(resolve_targets(targets, precisions), options.get("toolkits", ())),
        recipe=chosen,
        plan=None if plan is None else read_plan(plan),
        search_minutes=chosen.search_minutes if search_minutes is None else search_minutes,
        precisions=tuple(dict.fromkeys(precisions)),
        images=images,
        compression=parse_compression(options),
        preprocessing=parse_preprocessing(options),
        **options,
    )
    check_options(chosen.options, f"cannot use the recipe {chosen.id}")
    if job.plan is not None:
        check_options(job.plan.options, f"cannot use --plan {plan}")
    refuse_unknown_rewrites(job)
    if job.plan is not None and job.plan.precision not in job.precisions:
        asked = " and ".join(job.precisions)
        raise InputError(
            f"cannot use --plan {plan}",
            f"it says {job.plan.precision} and {asked} is asked for",
            f"Correct its precision, or use --precision {job.plan.precision}",
        )
    if job.plan is not None and not job.plan.quantized:
        raise InputError(f"cannot use --plan {plan}", "a float artefact needs no plan", "Leave --plan out")
    if images:
        check(job)
    return replace(job, out=out or Path("runs") / job.name)


def resolve_targets(names: tuple[str | Board, ...], precisions: tuple[str, ...]) -> tuple[Board, ...]:
    """Load the board profiles. Raises InputError for an unknown name or a precision a board can't run."""
    unique = [name for number, name in enumerate(names) if name not in names[:number]]
    boards = tuple(load_board(name) if isinstance(name, str) else name for name in unique)
    twice = [
        board.id for number, board in enumerate(boards) if board.id in {each.id for each in boards[:number]}
    ]
    if twice:
        raise InputError(
            f"two targets are called {twice[0]}",
            "their files would overwrite each other",
            f"Rename one board file, for example to {twice[0]}-mine.toml",
        )
    for board in boards:
        backend_of(board)  # a live profile of the library's face was not loaded by name
        for precision in precisions:
            if precision not in board.precisions:
                raise InputError(
                    f"{board.id} can't run {precision}",
                    board.refuse.get(precision, "its toolchain has no such type"),
                    f"Use --precision {board.precisions[0]}",
                )
    return boards


def with_toolkits(boards: tuple[Board, ...], toolkits: tuple[str, ...]) -> tuple[Board, ...]:
    """Boards with the releases of their vendors' converters that are asked for, as rknn@2.3.2.

    Raises InputError for one that there is not, that names no release, or that no board needs.
    """
    for spec in toolkits:
        name, _, version = spec.partition("@")
        releases.find(spec)
        if not version or name not in {board.backend for board in boards}:
            why = "no target is converted with it" if version else "it names no release"
            example = releases.RELEASES[name][-1]
            fix = f"Write it as {example.toolchain}@{example.version}, with a target that needs it"
            raise InputError(f"cannot use --toolkit {spec}", why, fix)
        boards = tuple(
            board.model_copy(update={"toolkit": version}) if board.backend == name else board
            for board in boards
        )
    for board in boards:
        if board.toolkit is not None:
            releases.find(board.toolchain)
    return boards


def delegates_of(board: Board) -> tuple[str, ...]:
    """What may run a board's artefacts; the CPU stands for whatever leaves no choice."""
    quantizers = backend_of(board).quantizers
    return quantizers.delegates if quantizers else ("cpu",)


def refuse_unknown_rewrites(job: Job) -> None:
    """Raises InputError for a rewrite to leave out that no target knows."""
    known = sorted({name for board in shipped("boards") for name in load_board(board).rewrites})
    known += [name for board in job.targets for name in board.rewrites if name not in known]
    known += [name for name in FOR_INT8 if name not in known]
    unknown = [name for name in job.without if name not in known]
    if unknown:
        raise InputError(
            f"unknown rewrite {unknown[0]!r}", "no target has it", f"Choose from {', '.join(known)}"
        )


def check(job: Job) -> None:
    """Raises InputError when the request can't be met with the images given."""
    if not any(job.delegate in delegates_of(board) for board in job.targets):
        raise InputError(
            f"cannot use --delegate {job.delegate}",
            "no target's artefacts run on one",
            "Add a target whose do, such as tflite, or leave the option out",
        )
    if job.model == DEMO:
        if job.weights is not None:
            raise InputError(
                "--weights without a model", "the bundled model has its own", "Name the model first"
            )
        return
    if job.calibration is None and any(map(quantized, job.precisions)):
        raise InputError(
            "cannot quantize to int8",
            "no calibration images",
            "Pass --calibration with a folder or CSV of 64 or more typical images, or use --precision float",
        )
    if job.calibration is None and (
        job.compression.pruned or job.compression.automatic or job.compression.recover
    ):
        raise InputError(
            "cannot make the model smaller",
            "no calibration images to choose by",
            "Pass --calibration with a folder or CSV of 64 or more typical images",
        )
    if job.max_drop is not None and job.validation is None:
        raise InputError(
            "cannot check --max-drop", "no validation images", "Pass --validation with labelled images"
        )
