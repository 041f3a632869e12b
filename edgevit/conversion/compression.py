"""The lossy steps in order: resolution, heads, MLP neurons, recovery. Each is cached and starts from the last."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgevit.compression.any_size import at_size
from edgevit.compression.blocks import require_prunable
from edgevit.compression.calibration_split import split_images
from edgevit.compression.fitting import estimate_sensitivity
from edgevit.compression.head_choice import Removal, choose_heads
from edgevit.compression.heads import spare_heads, wanted_of
from edgevit.compression.structure import WEIGHTS, Structure, load, multiplications, save, structure_of
from edgevit.conversion import recovery
from edgevit.conversion.compression_stages import Made, Work, remove_heads, remove_neurons
from edgevit.conversion.resize import resize
from edgevit.conversion.sources import multiplications_of
from edgevit.errors import InputError
from edgevit.images import ImageSet
from edgevit.images.preprocessing import Preprocessing
from edgevit.metrics.acceptance import Acceptance
from edgevit.models import LoadedModel
from edgevit.progress import Progress
from edgevit.request.compression import AUTO, Amount
from edgevit.request.job import Job
from edgevit.rewrites.canonical import why_not_canonical
from edgevit.run.folder import Run
from edgevit.run.step import Step, step_key


@dataclass(frozen=True)
class Source:
    """Where a chain of reductions takes its model and images from; nothing is read before it is needed.

    `images` are the calibration images to fit on, `pixels` their pixels by a preprocessing, `recovery_images`
    others to recover on; None where there are none.
    """

    job: Job
    run: Run
    progress: Progress
    model: Step
    loaded: Callable[[], LoadedModel]
    images: Callable[[], ImageSet | None]
    pixels: Callable[[Preprocessing], Step | None]
    recovery_images: ImageSet | None

    @property
    def preprocessing(self) -> Preprocessing:
        """The original model's."""
        return Preprocessing.from_json(self.model.metrics["preprocessing"])


def resized(source: Source) -> Step | None:
    """The model at the size asked for, and the preprocessing that goes with it; None where none was."""
    wanted, job = source.job.compression.resolution, source.job
    if wanted is None:
        return None
    pixels = source.pixels(source.preprocessing)
    inputs = {
        "model": source.model.key,
        "size": wanted,
        "calibration": pixels.key if pixels else None,
        "seed": job.seed,
        "max_drop": each_may_cost(job).max_drop if wanted == AUTO else None,
    }
    make = partial(
        resize, wanted=wanted, calibration=pixels, images=source.images, acceptance=each_may_cost(job)
    )
    return run_step(source, None, "resolution", inputs, make)


def reductions(source: Source, first: Step | None) -> list[Step]:
    """Every lossy step asked for, in order; `first` is the change of resolution, where there is one."""
    done = [] if first is None else [first]
    request, job = source.job.compression, source.job
    alignment = max((board.npu.channel_alignment_int8 for board in job.targets if board.npu), default=8)
    prunings: tuple[tuple[str, Amount | None, Callable[..., Made], dict[str, int]], ...] = (
        ("heads", request.heads, partial(remove_heads, order=partial(heads_in_order, source)), {}),
        ("neurons", request.neurons, remove_neurons, {"alignment": alignment}),
    )
    for stage, wanted, remove, settings in prunings:
        if wanted is None:
            continue
        before = done[-1] if done else None
        pixels = source.pixels(preprocessing_of(source, before))
        inputs = {
            "model": before.key if before else source.model.key,
            "amount": wanted,
            "calibration": pixels.key if pixels else None,
            "seed": job.seed,
            "max_drop": each_may_cost(job).max_drop if wanted == AUTO else None,
            **settings,
        }
        make = partial(remove, wanted=wanted, calibration=pixels, acceptance=each_may_cost(job), **settings)
        done.append(run_step(source, before, stage, inputs, make))
    if request.recover:
        done.append(recovered(source, done[-1]))
    return done


def heads_in_order(source: Source, count: int, most_kl: float = math.inf) -> list[Removal]:
    """Which heads go first, chosen on the model at its own size: its smaller versions share the choice.

    `count` of them, or until the divergence is past `most_kl` nats. What a sweep removes at most is chosen at once.
    """
    pixels, job = source.pixels(source.preprocessing), source.job
    assert pixels is not None  # without images nothing is chosen by them
    loaded = source.loaded()
    vit = require_prunable(loaded.module, "head pruning")
    ahead = [] if most_kl < math.inf else [wanted_of(vit, each) for each in job.heads_ahead]
    # Another point may ask for too many.
    most = max([count, *(each for each in ahead if each <= spare_heads(vit))])
    inputs = {
        "model": source.model.key,
        "images": pixels.key,
        "seed": job.seed,
        "count": most,
        "most_kl": most_kl if most_kl < math.inf else None,
    }

    def make(folder: Path) -> dict[str, Any]:
        images = Work(loaded, loaded, folder, source.progress, job).inputs(pixels)
        split, outputs = split_images(images, seed=job.seed), loaded.outputs
        sensitivity = estimate_sensitivity(vit, split.fit, seed=job.seed, outputs=outputs)
        found = choose_heads(
            vit, most, split, sensitivity, most_kl=most_kl, outputs=outputs, progress=source.progress
        )
        return {"removed": [asdict(each) for each in found]}

    step = source.run.step("head-order", inputs, make)
    return [Removal(**each) for each in step.metrics["removed"]][:count]


def recovered(source: Source, before: Step) -> Step:
    """The last smaller model, distilled from the original on unlabelled images."""
    job = source.job
    given, pixels = source.recovery_images, source.pixels(preprocessing_of(source, before))
    inputs: dict[str, Any] = {
        "original": source.model.key,
        "model": before.key,
        "images": recovery.fingerprint(given) if given else None if pixels is None else pixels.key,
        "minutes": job.compression.recover_minutes,
        "seed": job.seed,
    }
    unfinished = source.run.unfinished / f"recovery-{step_key('recovery', inputs)[:12]}.pt"
    make = partial(
        recovery.recover_step,
        minutes=job.compression.recover_minutes,
        images=given,
        full=source.pixels(source.preprocessing),
        own=pixels,
        checkpoint=unfinished,
    )
    step = run_step(source, before, "recovery", inputs, make)
    if not source.run.dry:
        recovery.forget(unfinished)
    return step


def run_step(
    source: Source,
    before: Step | None,
    stage: str,
    inputs: Mapping[str, Any],
    make: Callable[[Work], Made],
) -> Step:
    """Run one lossy step unless it is cached: its weights, structure, preprocessing, size, and what it did."""

    def run(folder: Path) -> dict[str, Any]:
        original = source.loaded()
        if stage != "resolution":
            require_reducible(original)
        start = reduced_model(original, before)
        work = Work(original, start, folder, source.progress, source.job)
        found = make(work)
        return {
            "label": found.label,
            "preprocessing": found.preprocessing.to_json(),
            "parameters": sum(parameter.numel() for parameter in found.module.parameters()),
            **written(original, found, folder),
            "details": {"what": found.what, "notes": list(found.notes), **found.details},
        }

    return source.run.step(stage, inputs, run)


def written(original: LoadedModel, found: Made, folder: Path) -> dict[str, Any]:
    """What a smaller model is made again from, with its bytes and multiplications: its weights in `folder` and its
    structure; or its size alone, where the weights are the original's."""
    if original.canonical:
        save(found.module, folder)
        return {
            "structure": structure_of(found.module).to_json(),
            "multiplications": multiplications(found.module),
            "bytes": (folder / WEIGHTS).stat().st_size,
        }
    smaller = replace(original, module=found.module, preprocessing=found.preprocessing)
    return {
        "structure": {"size": list(found.preprocessing.size)},
        "multiplications": multiplications_of(smaller),
        "bytes": sum(tensor.nbytes for tensor in found.module.state_dict().values()),
    }


def reduced_model(original: LoadedModel, step: Step | None) -> LoadedModel:
    """The model a step left, read from its folder; the original where there is no step."""
    if step is None:
        return original
    preprocessing = Preprocessing.from_json(dict(step.metrics["preprocessing"]))
    if original.canonical:
        structure = Structure.from_json(dict(step.metrics["structure"]))
        module = load(original.module, structure, step.folder)
    else:
        same = preprocessing.size == original.preprocessing.size
        module = original.module if same else at_size(original, preprocessing.size)
    return replace(original, module=module, preprocessing=preprocessing)


def preprocessing_of(source: Source, step: Step | None) -> Preprocessing:
    """The preprocessing after a step."""
    return (
        source.preprocessing if step is None else Preprocessing.from_json(dict(step.metrics["preprocessing"]))
    )


def require_reducible(loaded: LoadedModel) -> None:
    """Raises InputError for a model whose parts aren't understood."""
    problem = why_not_canonical(loaded.module)
    if problem is not None:
        raise InputError(
            f"cannot make {loaded.name} smaller",
            problem,
            "Leave --prune-heads, --prune-mlp and --recover out for this model",
        )


def each_may_cost(job: Job) -> Acceptance:
    """What each amount left to edgevit may cost: together they may cost --max-drop."""
    return job.acceptance.shared(job.compression.automatic)
