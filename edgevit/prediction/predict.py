"""What a model says about pictures: the float original, or any artefact that this machine can run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.special import softmax

from edgevit.backends.protocol import Outputs, Pixels
from edgevit.backends.registry import backends, by_suffix
from edgevit.errors import InputError
from edgevit.files import atomic_path, write_atomically
from edgevit.images.preprocessing import Preprocessing
from edgevit.outputs.angles import cosines
from edgevit.outputs.detections import worth_drawing
from edgevit.outputs.embeddings import neighbours
from edgevit.outputs.output import Outputs as ModelOutputs
from edgevit.progress import QUIET, Progress
from edgevit.run.manifest import MANIFEST
from edgevit.run.reading import RunFiles, read_run
from edgevit.run.results import Result

if TYPE_CHECKING:
    from edgevit.models import LoadedModel

TORCH = "torch"
WHAT = "cannot predict with"


@dataclass(frozen=True)
class Source:
    """What answers: a file, or the run's float model in torch; the preprocessing and names that go with it."""

    title: str
    artefact: Path | None
    preprocessing: Preprocessing
    names: tuple[str, ...] | None
    run: RunFiles


@dataclass(frozen=True)
class Guess:
    """A class with its softmax probability."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one picture, or why there are none.

    `outputs` are what it gives in words, where it has no classes.
    """

    image: str
    guesses: tuple[Guess, ...] = ()
    error: str | None = None
    outputs: tuple[str, ...] = ()


def choose(
    model: Path, *, target: str | None = None, precision: str | None = None, like: Path | None = None
) -> Source:
    """Find what to run in a run directory, or a lone artefact with the run that made it.

    Of a run's artefacts the first that runs here is taken, unless `target` or `precision` say more; the target
    "torch" is the float model. A lone file needs the run it came from for its preprocessing: beside it, or `like`.
    Raises InputError.
    """
    if model.is_dir() or model.name == MANIFEST:
        return from_run(read_run(model, WHAT), target, precision)
    if not model.is_file():
        raise InputError(f"{WHAT} {model}", "no such file or folder", "Give a run directory or an artefact")
    refuse_foreign(model)
    beside = model.parent if (model.parent / MANIFEST).is_file() else None
    home = like or beside
    if home is None:
        raise InputError(
            f"{WHAT} {model}",
            "a lone artefact doesn't say how its images are prepared, and there is no manifest.json beside it",
            "Give the run that made it with --like RUN, or the run itself as --model",
        )
    run = read_run(home, WHAT)
    result = next((each for each in run.manifest.results if each.artefact == model.name), None)
    return source(run, model.name, model, result)


def from_run(run: RunFiles, target: str | None, precision: str | None) -> Source:
    """The artefact of a run that was asked for, or the first that runs here."""
    if target == TORCH:
        return source(run, "float model in torch", None, None)
    matching = run.matching(target, precision)
    if not matching:
        raise InputError(
            f"{WHAT} {run.folder}", "it made no such artefact", f"Choose from {run.made}, or --target {TORCH}"
        )
    here = [each for each in matching if runner_of(Path(each.artefact)) is not None]
    if not here:
        refuse_foreign(Path(matching[0].artefact))
    chosen = here[0]
    return source(run, chosen.title, run.present(chosen, WHAT), chosen)


def source(run: RunFiles, title: str, artefact: Path | None, result: Result | None) -> Source:
    """A source with the preprocessing of its own artefact, the original model's where it is none of the run's."""
    preprocessing = result.preprocessing if result else run.manifest.model.preprocessing
    return Source(title, artefact, preprocessing, run.manifest.class_names, run)


def refuse_foreign(artefact: Path) -> None:
    """Raise InputError for a file that this machine can't run."""
    backend = by_suffix(artefact)
    if backend is None:
        here = " or ".join(each.suffix for each in backends() if each.run is not None)
        raise InputError(
            f"{WHAT} {artefact.name}",
            "it is neither a run directory nor an artefact that runs here",
            f"Give a run, or a file ending in {here}",
        )
    if backend.run is None:
        raise InputError(
            f"{WHAT} {artefact.name}",
            f"a {backend.suffix} runs on {backend.device} only",
            f"Use edgevit bench with --board on the board, or --target {TORCH} or another target of the run here",
        )


def runner_of(artefact: Path) -> Callable[[Path, Pixels, Preprocessing, Progress], Outputs] | None:
    """What runs an artefact on this machine; None where nothing does."""
    backend = by_suffix(artefact)
    return backend.run if backend else None


def read_images(images: Sequence[Path], preprocessing: Preprocessing) -> list[Pixels | str]:
    """Pixels uint8 [height, width, channels] of each picture, or why there are none."""
    import warnings

    from edgevit.images.pixels import attempt

    def read(path: Path) -> Pixels | str:
        if not path.is_file():
            return "it is a folder" if path.is_dir() else "no such file"
        return attempt(path, preprocessing)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remarks on metadata
        return [read(path) for path in images]


@dataclass(frozen=True)
class Answered:
    """What a model says about pictures: `pixels` are what it saw, `rows` its outputs for those it could read."""

    found: list[Prediction]
    pixels: list[Pixels | str]
    rows: Outputs | None


def predict(source: Source, images: Sequence[Path], *, top: int = 5, progress: Progress = QUIET) -> Answered:
    """The `top` likeliest classes of each picture, or what else the model gives.

    A picture that can't be read gets its error, the others their answers. Raises InputError or ToolchainError where
    the model itself can't be run.
    """
    read, gives = read_images(images, source.preprocessing), source.run.manifest.model.gives
    good = [pixels for pixels in read if not isinstance(pixels, str)]
    rows = outputs_of(source, np.stack(good), progress) if good else None
    classes = None if rows is None or gives.classes is None else gives.split(rows)[0]
    found, number = [], 0
    for path, pixels in zip(images, read, strict=True):
        if isinstance(pixels, str):
            found.append(Prediction(str(path), error=pixels))
            continue
        if classes is not None:
            found.append(Prediction(str(path), guesses(classes[number], source.names, top)))
        elif rows is not None:
            found.append(Prediction(str(path), outputs=told(gives, rows, number)))
        number += 1
    return Answered(found, read, rows)


def told(gives: ModelOutputs, rows: Outputs, number: int) -> tuple[str, ...]:
    """One picture's outputs in words: their shapes, and an embedding's likest other picture."""
    words = []
    for output, values in zip(gives.each, gives.split(rows), strict=True):
        shape = " x ".join(map(str, values.shape[1:]))
        text = f"{output.name}: {output.kind}, {shape}"
        if output.means.among_others and len(values) > 1:
            near = neighbours(values, 1)[number, 0]
            text += (
                f"; most like picture {near + 1}, cosine {cosines(values[[number]], values[[near]])[0]:.3f}"
            )
        words.append(text)
    return tuple(words)


def save(source: Source, answered: Answered, folder: Path) -> list[Path]:
    """Write every output of the pictures that could be read: OUTPUT.npy [n, ...], pictures.json with their names in
    order, and a PNG of each answer that can be drawn. Raises InputError where the folder has files already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"cannot write to {folder}", "it is there and not empty", "Give another --save")
    gives, rows = source.run.manifest.model.gives, answered.rows
    if rows is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    read = [each.image for each in answered.found if each.error is None]
    seen = [pixels for pixels in answered.pixels if not isinstance(pixels, str)]
    made = [folder / "pictures.json"]
    write_atomically(made[0], json.dumps(read, indent=1))
    parts = gives.split(rows)
    for place, (output, values) in enumerate(zip(gives.each, parts, strict=True)):
        with atomic_path(folder / f"{file_stem(output.name)}.npy") as staging, staging.open("wb") as file:
            np.save(file, values)
        made.append(folder / f"{file_stem(output.name)}.npy")
        draw, shown = output.means.draw, worth_drawing(gives.each, parts, place)
        for number, (name, pixels) in enumerate(zip(read, seen, strict=True)):
            if draw is not None:
                path = folder / f"{number + 1:04d}-{file_stem(Path(name).stem)}-{file_stem(output.name)}.png"
                Image.fromarray(draw(shown[number], pixels)).save(path)
                made.append(path)
    return made


def file_stem(name: str) -> str:
    """A name that any folder takes."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60] or "output"


def guesses(outputs: Outputs, names: tuple[str, ...] | None, top: int) -> tuple[Guess, ...]:
    """The likeliest classes of outputs [classes], likeliest first."""
    shares = softmax(outputs.astype(np.float64))
    order = np.argsort(-shares, kind="stable")[:top]
    return tuple(Guess(int(index), name_of(int(index), names), float(shares[index])) for index in order)


def name_of(index: int, names: tuple[str, ...] | None) -> str:
    """A class by its name where it is known, else by its number."""
    return names[index] if names is not None and index < len(names) else f"class {index}"


def outputs_of(source: Source, pixels: Pixels, progress: Progress) -> Outputs:
    """Outputs float32 [n, classes] for pixels uint8 [n, height, width, channels]."""
    if source.artefact is None:
        from edgevit.conversion.reference import outputs_of as torch_outputs

        loaded = float_model(source.run, progress)
        outputs: Outputs = torch_outputs(loaded.module, pixels, loaded.preprocessing, progress)
        return outputs
    run = runner_of(source.artefact)
    assert run is not None  # choose() refused what does not run here
    return run(source.artefact, pixels, source.preprocessing, progress)


def float_model(run: RunFiles, progress: Progress) -> LoadedModel:
    """The run's original model in torch. Raises InputError where it is gone or has changed since."""
    from edgevit.conversion import sources
    from edgevit.request.job import DEFAULT_RECIPE, Job
    from edgevit.targets.profiles import load_recipe

    asked, what = run.manifest.configuration, f"cannot load the float model of {run.folder}"
    recipe = load_recipe(DEFAULT_RECIPE)  # nothing is quantized here
    weights = Path(asked.weights) if asked.weights else None
    job = Job(
        asked.model,
        run.folder,
        (),
        recipe,
        weights=weights,
        outputs=asked.outputs,
        normalize=asked.normalize,
    )
    if job.weights is not None and not job.weights.is_file():
        raise InputError(
            what,
            f"its weights {asked.weights} are gone",
            "Work in the folder where edgevit convert ran, or choose an artefact with --target",
        )
    progress.stage("load model")
    loaded = sources.load(job)
    recorded = run.manifest.step(run.manifest.model.key)
    if recorded is not None and recorded.inputs.get("state") != sources.state_digest(loaded.module):
        raise InputError(
            what,
            "its weights are not those the run was made from",
            "Restore them, or run edgevit convert again",
        )
    return replace(loaded, preprocessing=run.manifest.model.preprocessing)
