"""Where a job's model and images come from: the user's files, or the bundled demonstration."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.errors import InputError
from edgevit.files import replace_folder, sha256_file, user_cache
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Progress
from edgevit.request.job import DEMO, Job

if TYPE_CHECKING:
    from torch import nn

    from edgevit.images import ImageSet
    from edgevit.models import LoadedModel

NOISE_IMAGES = 16
# Passed through every block, and held in memory, several times.
MAX_FITTING_IMAGES = 512
# Held in memory at once, as float32, at two resolutions: 1.2 GB each at 224 px.
MAX_RECOVERY_IMAGES = 2048
MODEL_FILES = {".json", ".safetensors", ".bin", ".pth", ".pt", ".py"}


def load(job: Job, live: LoadedModel | None = None) -> LoadedModel:
    """The job's model, loaded unless it is at hand, with the outputs and the preprocessing that the user says."""
    loaded = live or from_files(job)
    if job.outputs or job.normalize:
        from edgevit.models.outputs import with_requested

        loaded = with_requested(loaded, job.outputs, job.normalize)
    if not job.preprocessing.any:
        return loaded
    from edgevit.models.given_preprocessing import with_preprocessing

    return with_preprocessing(loaded, job.preprocessing)


def from_files(job: Job) -> LoadedModel:
    """The model as its files say."""
    if job.model == DEMO:
        from edgevit.demo import load_demo

        return load_demo()
    from edgevit.models import load_model

    return load_model(job.model, job.weights, size=job.preprocessing.size)


def is_downloaded(job: Job) -> bool:
    """Whether loading the model may fetch its weights from the network."""
    named = Path(python_file(job) or job.model)
    return job.model != DEMO and job.weights is None and not named.exists()


def identity(name: str, loaded: LoadedModel, files: dict[str, str]) -> dict[str, Any]:
    """What decides a loaded model: every tensor that it holds, its structure, the user's files that define it.

    Weights that a file's function loads by itself, or that a hub changed, are in its tensors.
    """
    return {
        "model": name,
        "state": state_digest(loaded.module),
        "structure": hashlib.sha256(repr(loaded.module).encode()).hexdigest(),
        "preprocessing": loaded.preprocessing.to_json(),
        "labels": loaded.labels,
        "outputs": loaded.outputs.to_json(),
        "files": files,
    }


def describe(loaded: LoadedModel) -> dict[str, Any]:
    """The manifest's record of a loaded model."""
    from edgevit.quantize.activations import why_not_tapped

    problem = why_not_tapped(loaded.module) if loaded.canonical else None
    notes = (
        [] if problem is None else [f"int8 for NPUs is prepared on the graph, not on the module: {problem}"]
    )
    return {
        "name": loaded.name,
        "source": loaded.source,
        "num_classes": loaded.num_classes,
        "outputs": loaded.outputs.to_json(),
        "canonical": loaded.canonical,
        "conditionable": loaded.canonical and problem is None,
        "parity": loaded.parity,
        "labels": list(loaded.labels) if loaded.labels else None,
        "notes": [*loaded.notes, *notes],
        "preprocessing": loaded.preprocessing.to_json(),
        "preprocessing_from": loaded.preprocessing_from,
        "multiplications": multiplications_of(loaded),
        "parameters": sum(parameter.numel() for parameter in loaded.module.parameters()),
    }


def multiplications_of(loaded: LoadedModel) -> int | None:
    """Multiply-accumulates of one image, as torch counts them; None of a graph that torch doesn't run."""
    if loaded.graph is not None:
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    size, channels = loaded.preprocessing.size, len(loaded.preprocessing.mean)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loaded.module(torch.zeros(1, channels, *size))
    return int(counter.get_total_flops() // 2)


def state_digest(module: nn.Module) -> str:
    """Hex sha256 of a module's parameters and buffers: names, types, shapes, values."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=uint8()).numpy().tobytes())
    return digest.hexdigest()


def uint8() -> Any:
    """torch's byte type, imported when needed."""
    import torch

    return torch.uint8


def python_file(job: Job) -> str | None:
    """The file of a model named `file.py:function`."""
    return job.model.partition(".py:")[0] + ".py" if ".py:" in job.model else None


def files_of(job: Job) -> dict[str, str]:
    """Names and sha256 of the user's files that a model was loaded from."""
    files = [job.weights] if job.weights else []
    named = Path(python_file(job) or job.model)
    if job.model == DEMO:
        return {}
    if named.suffix == ".py" and named.is_file():
        files += imported_from(named.resolve().parent)
    elif named.is_file():  # a graph: what it refers to is in the loaded model's tensors
        files.append(named)
    elif named.is_dir():
        files += sorted(path for path in named.iterdir() if path.suffix in MODEL_FILES)
    return {path.name: sha256_file(path) for path in files if path.is_file()}


def imported_from(folder: Path) -> list[Path]:
    """The Python files below a folder that this process has imported."""
    found = {
        Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))
    }
    return sorted(path for path in found if path.suffix == ".py" and path.is_relative_to(folder))


def folder_of(job: Job, role: str) -> Path | None:
    """The folder or CSV of the calibration or validation images, None where the user gave none."""
    if not job.images:
        return None
    if job.model == DEMO and getattr(job, role) is None:
        return demo_images() / role
    path: Path | None = getattr(job, role)
    return path


@cache
def demo_images() -> Path:
    """The bundled handwritten digits as ImageFolders `calibration` and `validation`, written once a user."""
    from edgevit import demo

    source = hashlib.sha256(Path(demo.__file__).read_bytes()).hexdigest()[:12]
    final = user_cache("demo-images") / source
    if not (final / "validation").is_dir():
        staging = Path(tempfile.mkdtemp(dir=final.parent, prefix="."))
        demo.write_demo_images(staging)
        replace_folder(staging, final)
    return final


def image_set(
    job: Job, role: str, limit: int | None, model: Mapping[str, Any], *, progress: Progress
) -> ImageSet | None:
    """The images of a role, hashed; decoded later, and only if no cached step has them. `model` describes it."""
    from edgevit.images import read_image_set

    source = folder_of(job, role)
    if source is None:
        return None

    return read_image_set(
        source,
        num_classes=model["num_classes"],
        labelled=role == "validation",
        limit=limit,
        seed=job.seed,
        progress=progress,
        names=model["labels"],
    )


def calibration_labels(
    job: Job, images: ImageSet, kept: Sequence[str], model: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """Labels of the calibration images whose digests are `kept`, where they have any that fit the model."""
    from edgevit.images.sets import labels_in

    source = folder_of(job, "calibration")
    assert source is not None
    try:
        known = labels_in(source, model["num_classes"], model["labels"])
    except InputError:  # folders that mean something else are no labels
        return None
    paths = dict(zip(images.digests, images.paths, strict=True))
    found = [known.get(paths[digest]) for digest in kept]
    return None if None in found else tuple(each for each in found if each is not None)


def fingerprint(images: ImageSet) -> str:
    """Hex sha256 of the images' contents and labels, in order."""
    listing = json.dumps([images.digests, images.labels])
    return hashlib.sha256(listing.encode()).hexdigest()


def write_images(
    images: ImageSet, preprocessing: Preprocessing, folder: Path, role: str, progress: Progress
) -> dict[str, Any]:
    """Decode, resize and crop into `folder/pixels.npy` (and `labels.npy`); return what the manifest keeps."""
    import numpy as np

    from edgevit.images import write_pixels

    progress.stage(f"read {role} images")
    kept = write_pixels(images, preprocessing, folder / "pixels.npy", progress)
    if kept.labels is not None:
        np.save(folder / "labels.npy", np.asarray(kept.labels, dtype=np.int64))
    names = [path.name for path in kept.paths]
    (folder / "images.json").write_text(
        json.dumps({"names": names, "sha256": kept.digests}), encoding="utf-8"
    )
    for path, why in kept.skipped:
        progress.warn(f"skipped {path.name}: {why}")
    return {
        "n": len(kept.paths),
        "labelled": kept.labels is not None,
        "class_names": list(kept.class_names) if kept.class_names else None,
        "skipped": [[path.name, why] for path, why in kept.skipped],
    }


def write_noise(preprocessing: Preprocessing, folder: Path) -> dict[str, Any]:
    """Seeded noise in place of images, where a float conversion was asked for without any."""
    import numpy as np

    shape = (NOISE_IMAGES, *preprocessing.size, len(preprocessing.mean))
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(folder / "pixels.npy", pixels)
    return {"n": NOISE_IMAGES}
