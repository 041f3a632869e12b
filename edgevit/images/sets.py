"""Sets of image files with their labels: class folders, a CSV, or a plain folder."""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import InputError
from edgevit.files import read_input, sha256_file
from edgevit.images.labels import imagenet_names
from edgevit.progress import Progress

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ImageSet:
    """Image files in a fixed order, their labels and content hashes; `skipped` names what can't be read and why.

    `class_names` are in the order of class numbers, None where only numbers are known.
    """

    source: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...] | None
    digests: tuple[str, ...]
    skipped: tuple[tuple[Path, str], ...] = ()
    class_names: tuple[str, ...] | None = None


def read_image_set(
    source: Path,
    *,
    num_classes: int | None,
    labelled: bool,
    limit: int | None,
    seed: int,
    progress: Progress,
    names: Sequence[str] | None = None,
) -> ImageSet:
    """Find and hash the images of `source`; nothing is decoded yet.

    With `labelled`, class folders or a label column are used where there are any. `limit` picks that many,
    seeded, spread over the classes. `names` are the model's classes in order, where it knows them: folders and
    labels of these names go by them. Without `num_classes` labels only say which images belong together. Raises
    InputError when there is nothing usable or a label is out of range.
    """
    if not source.exists():
        raise InputError(f"cannot read images from {source}", "no such file or folder", "Check the path")
    paths, labels, class_names = listed(source, num_classes, labelled, names or ())
    if not paths:
        raise InputError(
            f"no images in {source}",
            "it holds no file with an image's extension",
            "Give a folder of images or a CSV",
        )
    missing = [path for path in paths if not is_file(path)]
    if missing:
        raise InputError(
            f"cannot read images from {source}",
            f"{len(missing)} of {len(paths)} files do not exist, the first is {str(missing[0])[:200]}",
            "Paths are relative to the file, or to where you are; a header names the columns path,label",
        )
    if limit is not None and limit < len(paths):
        chosen = choose(labels or [0] * len(paths), limit, seed)
        paths = [paths[index] for index in chosen]
        labels = [labels[index] for index in chosen] if labels else None
    images = hashed(source, paths, labels, class_names)
    duplicates = len(images.digests) - len(set(images.digests))
    if duplicates:
        progress.warn(
            f"{duplicates} of {len(images.digests)} images in {source} repeat another one's content"
        )
    return images


Listed = tuple[list[Path], list[int] | None, tuple[str, ...] | None]


def listed(source: Path, num_classes: int | None, labelled: bool, known: Sequence[str]) -> Listed:
    """Images of a folder or a CSV, their labels and their folders' class names where there are any."""
    if source.is_dir():
        return from_folder(source, num_classes, labelled, known)
    return *from_csv(source, num_classes, labelled, known), None


def class_names_in(source: Path) -> tuple[str, ...]:
    """The classes that a set itself names, in order: its folders, or the labels of a CSV. Raises InputError."""
    if source.is_dir():
        return tuple(folder.name for folder in class_folders(source))
    rows, _, label_at = csv_rows(source, needs_label=True)
    cells = {row[label_at].strip() for row in rows if label_at < len(row)} - {""}
    if all(cell.isdigit() for cell in cells):
        return tuple(str(number) for number in range(max(map(int, cells), default=-1) + 1))
    return tuple(sorted(cells))


def labels_in(source: Path, num_classes: int | None, names: Sequence[str] | None = None) -> dict[Path, int]:
    """The label of each image of class folders or a CSV; empty where it has none. Raises InputError."""
    paths, labels, _ = listed(source, num_classes, True, names or ())
    return dict(zip(paths, labels, strict=True)) if labels else {}


def is_file(path: Path) -> bool:
    """Whether a path leads to a regular file; a name that no file can have leads nowhere."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def hashed(
    source: Path, paths: list[Path], labels: list[int] | None, class_names: tuple[str, ...] | None
) -> ImageSet:
    """The set with content hashes; files that can't be opened go to `skipped`."""
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(digest_of, paths))
    kept = [index for index, (digest, _) in enumerate(results) if digest]
    return ImageSet(
        source,
        paths=tuple(paths[index] for index in kept),
        labels=tuple(labels[index] for index in kept) if labels else None,
        digests=tuple(results[index][0] for index in kept),
        skipped=tuple((path, why) for path, (_, why) in zip(paths, results, strict=True) if why),
        class_names=class_names,
    )


def digest_of(path: Path) -> tuple[str, str]:
    """(sha256, "") of a file, or ("", why it can't be read)."""
    try:
        return sha256_file(path), ""
    except OSError as error:
        return "", (error.strerror or type(error).__name__).lower()


def class_folders(source: Path) -> list[Path]:
    """A folder's folders by name, hidden ones left out."""
    return sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))


def from_folder(source: Path, num_classes: int | None, labelled: bool, known: Sequence[str]) -> Listed:
    """Images of class folders with their labels, or of a plain folder, recursively, without."""
    # An empty class folder still takes its number: leaving it out would shift the labels of those after it.
    found = [(folder, images_in(folder)) for folder in class_folders(source)]
    if not labelled or not any(images for _, images in found):
        return images_in(source), None, None
    names = [folder.name for folder, _ in found]
    labels = labels_of(source, names, num_classes, known)
    pairs = [(path, label) for (_, images), label in zip(found, labels, strict=True) for path in images]
    by_name = any(name in known for name in names)
    shown = imagenet_names() if are_wordnet_ids(names, num_classes) else tuple(known if by_name else names)
    return [path for path, _ in pairs], [label for _, label in pairs], shown


def labels_of(
    source: Path, names: Sequence[str], num_classes: int | None, known: Sequence[str] = ()
) -> list[int]:
    """Class numbers of class folders: by the model's own names, by WordNet id for ImageNet's 1 000 classes, else by
    sorted name."""
    if any(name in known for name in names):
        fix = "Remove the folder, or give it the name of one of them"
        return numbered(source, names, numbers_of(known), f"none of the model's {len(known)} classes", fix)
    if are_wordnet_ids(names, num_classes):
        fix = "Remove the folder or give a CSV path,label"
        return numbered(source, names, wordnet_ids(), "not one of ImageNet's 1000 classes", fix)
    if num_classes is not None and len(names) != num_classes:
        raise InputError(
            f"cannot label {source}",
            f"it has {len(names)} class folders and the model has {num_classes} classes",
            "Give one folder for each class, or a CSV path,label",
        )
    return list(range(len(names)))


def numbers_of(names: Iterable[str]) -> dict[str, int]:
    """The place of each name."""
    return {name: number for number, name in enumerate(names)}


def numbered(
    source: Path, names: Sequence[str], numbers: dict[str, int], otherwise: str, fix: str
) -> list[int]:
    """The number of each folder's name. Raises InputError for one that has none: what it is `otherwise`."""
    unknown = [name for name in names if name not in numbers]
    if unknown:
        raise InputError(f"cannot label {source}", f"{unknown[0]} is {otherwise}", fix)
    return [numbers[name] for name in names]


def are_wordnet_ids(names: Sequence[str], num_classes: int | None) -> bool:
    """Whether class folders are named as ImageNet's are."""
    return num_classes == 1000 and all(WORDNET_ID.fullmatch(name) for name in names)


def wordnet_ids() -> dict[str, int]:
    """WordNet id to class number, ImageNet-1k order."""
    from edgevit import torch_setup  # noqa: F401

    from timm.data.imagenet_info import ImageNetInfo  # isort: skip

    names: list[str] = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]
    return numbers_of(names)


def csv_rows(source: Path, *, needs_label: bool = False) -> tuple[list[list[str]], int, int]:
    """A CSV's rows without its header, and the columns of paths and labels. Raises InputError."""
    content = read_input(source, f"cannot read {source}")
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        rows = [row for row in csv.reader(text) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot read {source}",
            f"it is not a CSV ({error})",
            "Give a folder of images or a CSV path,label",
        ) from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    path_at, label_at = 0, 1
    if "path" in header:
        if needs_label and "label" not in header and len(header) > 1:
            raise InputError(
                f"cannot read the labels of {source}",
                f"its header has no column label but {', '.join(header)}"[:200],
                "Name the columns path,label, or leave the other columns out",
            )
        path_at, label_at = header.index("path"), header.index("label") if "label" in header else len(header)
        rows = rows[1:]
    return rows, path_at, label_at


def from_csv(
    source: Path, num_classes: int | None, labelled: bool, known: Sequence[str]
) -> tuple[list[Path], list[int] | None]:
    """Rows of path[,label], or columns so named by a header: a CSV, or a converter's list of paths.

    Paths are relative to the file, or else to the current folder, as lists for Rockchip's converter are."""
    rows, path_at, label_at = csv_rows(source, needs_label=labelled)
    paths = [located(source.parent, row[path_at]) if path_at < len(row) else source.parent for row in rows]
    cells = [row[label_at].strip() if label_at < len(row) else "" for row in rows]
    if not labelled or not any(cells):
        return paths, None
    named = num_classes is None and not all(cell.isdigit() for cell in cells)
    numbers = numbers_of(sorted(set(cells)) if named else known)
    return paths, [
        numbers[cell] if cell in numbers else label_of(source, number, cell, num_classes)
        for number, cell in enumerate(cells, start=1)
    ]


def located(folder: Path, cell: str) -> Path:
    """The file that a row means: below the list's folder, or else where the user is."""
    beside, here = folder / cell, Path(cell)
    return here if not is_file(beside) and is_file(here) else beside


def label_of(source: Path, number: int, cell: str, num_classes: int | None) -> int:
    """The label of one row."""
    if not re.fullmatch(r"[0-9]{1,9}", cell):
        raise InputError(
            f"cannot read {source}",
            f"image {number} has the label {cell[:40]!r}",
            "Labels are class numbers from 0",
        )
    if num_classes is not None and int(cell) >= num_classes:
        raise InputError(
            f"labels of {source} don't fit the model",
            f"image {number} has label {cell} and the model has classes 0 to {num_classes - 1}",
            "Check that the images belong to this model",
        )
    return int(cell)


def images_in(folder: Path) -> list[Path]:
    """Image files below a folder, sorted by path; hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def choose(labels: Iterable[int], limit: int, seed: int) -> list[int]:
    """Indices of `limit` images, in their order: classes take turns, each in a seeded random order."""
    shuffle = random.Random(seed)
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    for indices in by_class.values():
        shuffle.shuffle(indices)
    classes = sorted(by_class)
    shuffle.shuffle(classes)
    turns = (turn for turn in range(max(map(len, by_class.values()))))
    order = [by_class[name][turn] for turn in turns for name in classes if turn < len(by_class[name])]
    return sorted(order[:limit])


def refuse_overlap(fitted: ImageSet, validation: ImageSet, what: str = "calibration") -> None:
    """Raise InputError if an image is in both sets, by content: the accuracy would be flattered."""
    seen = dict(zip(fitted.digests, fitted.paths, strict=True))
    shared = [
        (seen[digest], path)
        for digest, path in zip(validation.digests, validation.paths, strict=True)
        if digest in seen
    ]
    if shared:
        count = "1 image is" if len(shared) == 1 else f"{len(shared)} images are"
        raise InputError(
            f"{what} and validation images overlap",
            f"{count} in both, for example {shared[0][0]} and {shared[0][1]}",
            f"Remove them from one of the two: accuracy measured on {what} images is flattered",
        )
