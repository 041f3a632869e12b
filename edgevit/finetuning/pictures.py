"""What a model learns from: pictures by class, a part of them held out, views of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.images import ImageSet, read_image_set
from edgevit.images.pixels import MODES, attempt, eight_bit, pixels_of, upright
from edgevit.images.preprocessing import Preprocessing
from edgevit.images.sets import class_names_in
from edgevit.progress import Progress
from edgevit.run.limits import usable_cores

from timm.data.transforms_factory import create_transform  # isort: skip

HELD_OUT = 0.15  # of each class, for early stopping: never the validation images
SMALLEST_AREA = 0.35
AUGMENTATION = "rand-m6-mstd0.5-inc1"


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures; `names` are the classes in order. Rows in `held_out` are not learnt from."""

    images: ImageSet
    names: tuple[str, ...]
    learnt: tuple[int, ...]
    held_out: tuple[int, ...]

    @property
    def labels(self) -> torch.Tensor:
        """Class numbers of all pictures, [n]."""
        return torch.tensor(self.images.labels)


def read_pictures(source: Path, seed: int, progress: Progress) -> Pictures:
    """Pictures of class folders or of a CSV path,label, a part of each class held out.

    Raises InputError where there are fewer than two classes, or no class has pictures to hold out.
    """
    names = class_names_in(source)
    what = f"cannot learn from {source}"
    if len(names) < 2:
        why = "it has no class folders" if not names else f"it has one class only, {names[0]}"
        raise InputError(
            what, why, "Give a folder with one folder of pictures for each class, or a CSV path,label"
        )
    images = read_image_set(
        source, num_classes=len(names), labelled=True, limit=None, seed=seed, progress=progress, names=names
    )
    assert images.labels is not None
    empty = sorted(set(range(len(names))) - set(images.labels))
    if empty:
        raise InputError(what, f"{names[empty[0]]} has no pictures", "Add some, or remove the folder")
    held_out = held_out_of(images.labels, seed)
    if not held_out:
        why = f"none of its {len(names)} classes has more than one picture, so none can be held out"
        raise InputError(what, why, "Give at least two pictures of a class, better twenty")
    few = [names[label] for label in range(len(names)) if images.labels.count(label) == 1]
    if few:
        progress.warn(
            f"{few[0]}{f' and {len(few) - 1} more classes have' if few[1:] else ' has'} one picture only"
        )
    learnt = tuple(sorted(set(range(len(images.labels))) - set(held_out)))
    return Pictures(images, names, learnt, held_out)


def held_out_of(labels: Sequence[int], seed: int) -> tuple[int, ...]:
    """A seeded share of each class with two pictures or more, at least one of it."""
    generator, found = np.random.default_rng(seed), list[int]()
    for label in sorted(set(labels)):
        rows = np.flatnonzero(np.asarray(labels) == label)
        if len(rows) > 1:
            count = max(1, round(HELD_OUT * len(rows)))
            found += [int(row) for row in generator.choice(rows, count, replace=False)]
    return tuple(sorted(found))


def readable(pictures: Pictures, preprocessing: Preprocessing, progress: Progress) -> Pictures:
    """The pictures that can be decoded; the others are named. Raises InputError where there are many of those."""
    from edgevit.images.pixels import refuse_many_unreadable

    images, skipped, kept = pictures.images, list[tuple[Path, str]](), list[int]()
    with ThreadPoolExecutor(usable_cores()) as pool:
        for row, found in enumerate(pool.map(lambda path: attempt(path, preprocessing), images.paths)):
            kept += [] if isinstance(found, str) else [row]
            skipped += [(images.paths[row], found)] if isinstance(found, str) else []
            progress.advance(row + 1, len(images.paths), "read pictures")
    if not skipped:
        return pictures
    refuse_many_unreadable(images, skipped)
    for path, why in skipped:
        progress.warn(f"skipped {path.name}: {why}")
    ok = set(kept)
    return replace(
        pictures,
        learnt=tuple(row for row in pictures.learnt if row in ok),
        held_out=tuple(row for row in pictures.held_out if row in ok),
    )


def plain(paths: Sequence[Path], preprocessing: Preprocessing) -> torch.Tensor:
    """Pictures as they will be given to the converted model, float32 [n, channels, height, width]."""
    pixels = np.stack([pixels_of(path, preprocessing) for path in paths])
    return torch.from_numpy(preprocessing.normalise(pixels))


class Views:
    """Random views of pictures: boxes of them, mirrored, with RandAugment's changes (Cubuk et al. 2020)."""

    def __init__(self, preprocessing: Preprocessing, *, strong: bool) -> None:
        height, width = preprocessing.size
        options: dict[str, Any] = {"auto_augment": AUGMENTATION} if strong else {"color_jitter": 0.2}
        self.transform = create_transform(
            (len(preprocessing.mean), height, width),
            is_training=True,
            scale=(SMALLEST_AREA, 1.0),
            interpolation=preprocessing.interpolation
            if preprocessing.interpolation != "hamming"
            else "bilinear",
            mean=preprocessing.mean,
            std=preprocessing.std,
            **options,
        )
        self.preprocessing = preprocessing

    def __call__(self, path: Path) -> torch.Tensor:
        """One view, float32 [channels, height, width]."""
        with Image.open(path) as opened:
            opened.draft("RGB", (2 * self.preprocessing.size[1], 2 * self.preprocessing.size[0]))
            image = eight_bit(upright(opened), MODES[self.preprocessing.channels])
        if self.preprocessing.channels == "BGR":
            image = Image.fromarray(np.asarray(image)[..., ::-1])
        view: torch.Tensor = self.transform(image)
        return view


Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def batches(
    paths: Sequence[Path],
    labels: torch.Tensor,
    views: Views,
    mix: Mix,
    size: int,
    seed: int,
    done: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Every picture once, shuffled by the seed: views [n, channels, height, width], targets
    [n, classes], labels [n].

    `mix` makes targets of labels, and mixes views of an even number. The first `done` batches are left out; `share`
    (number, of so many) is the part of each batch that one of several processes learns from. The
    next batch is read while one is learnt from, all of it in one thread: timm's transforms draw from global
    generators.
    """
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed)).tolist()
    number, parts = share
    groups = [order[start : start + size] for start in range(0, len(order), size)][done:]
    groups = [rows[number::parts] or rows[:1] for rows in groups]
    own_seed = seed + done + 1_000_003 * number
    random.seed(own_seed)
    np.random.seed(own_seed % 2**32)
    torch.manual_seed(own_seed)

    def read(rows: list[int]) -> Batch:
        rows = rows + rows[:1] if len(rows) % 2 else rows
        found, own = torch.stack([views(paths[row]) for row in rows]), labels[rows]
        return *mix(found, own), own

    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(read, groups[0]) if groups else None
        for at in range(len(groups)):
            assert following is not None
            found = following.result()
            following = reader.submit(read, groups[at + 1]) if at + 1 < len(groups) else None
            yield found
