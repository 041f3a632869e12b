"""Names of classes from a file, or of a well-known set."""

from __future__ import annotations

from pathlib import Path

from edgevit.errors import InputError
from edgevit.files import read_input

IMAGENET = "imagenet-1k"


def read_labels(name: str) -> tuple[str, ...]:
    """Class names by index: "imagenet-1k", or a UTF-8 text file with one name per line. Raises InputError."""
    if name == IMAGENET:
        return imagenet_names()
    path = Path(name)
    what = f"cannot read class names from {name}"
    try:
        names = lines_of(path, what)
    except UnicodeDecodeError:
        fix = f"Give a text file with one name per line, or {IMAGENET}"
        raise InputError(what, "it is not UTF-8 text", fix) from None
    if not names:
        raise InputError(what, "it is empty", "Write one name per line")
    return names


def lines_of(path: Path, what: str) -> tuple[str, ...]:
    """The lines of a UTF-8 text file, stripped, without empty ones at its end.

    Raises InputError, beginning with `what`, where it can't be read, and UnicodeDecodeError.
    """
    names = [line.strip() for line in read_input(path, what).decode("utf-8-sig").splitlines()]
    while names and not names[-1]:
        names.pop()
    return tuple(names)


def imagenet_names() -> tuple[str, ...]:
    """ImageNet-1k's class names in class order: the first of each synset's, more where two classes share it."""
    from edgevit import torch_setup  # noqa: F401

    from timm.data.imagenet_info import ImageNetInfo  # isort: skip

    full = list(ImageNetInfo(IMAGENET).label_descriptions())  # type: ignore[no-untyped-call]
    first = [name.partition(", ")[0] for name in full]
    longer = [one if first.count(one) == 1 else name for one, name in zip(first, full, strict=True)]
    return tuple(
        name if longer.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(longer)
    )


def fitting(names: tuple[str, ...], num_classes: object) -> tuple[str, ...]:
    """The names, if there is one for each class. Raises InputError."""
    if len(names) != num_classes:
        raise InputError(
            "cannot name the classes",
            f"--labels gives {len(names)} names and the model has {num_classes} classes",
            "Give the names of this model's classes, in their order",
        )
    return names
