"""Where an artefact differs from the float model, as pictures: the images that changed most, with both answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.outputs import angles, boxes, embeddings, maps

Array = npt.NDArray[Any]
Picture = npt.NDArray[np.uint8]  # [height, width, 3]
SCORE = 0.5  # a box's overlap below which it is drawn as lost
MOST_BOXES = 20
# Ends of a perceptually even scale, dark blue to yellow (viridis, CC0).
SCALE = np.array(
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], dtype=np.float64
)
BEFORE, AFTER = (0, 160, 0), (220, 0, 120)


@dataclass(frozen=True)
class Row:
    """One image: its index, what changed in words, captioned pictures."""

    index: int
    words: str
    pictures: tuple[tuple[str, Picture], ...]


@dataclass(frozen=True)
class Shown:
    """Images that changed: what they are, how many of how many, the worst of them."""

    title: str
    total: int
    n: int
    rows: tuple[Row, ...]


# Found and reference [n, *shape], the images as the model saw them, how many rows.
Show = Callable[[Array, Array, "Pixels", int], Shown]


# One answer [*shape], the image as the model saw it.
Draw = Callable[[Array, Picture | None], Picture]


@dataclass(frozen=True)
class Pixels:
    """Validation images, RGB uint8 [height, width, 3] one at a time; None where they are gone."""

    get: Callable[[int], Picture | None]

    def captioned(self, index: int, caption: str) -> tuple[tuple[str, Picture], ...]:
        """One image with its caption, nothing where it is gone."""
        image = self.get(index)
        return () if image is None else ((caption, image),)


def neighbours(found: Array, reference: Array, pixels: Pixels, count: int) -> Shown:
    """Images whose nearest neighbour changed, with both of them; the least alike embeddings first."""
    title = "Images whose nearest neighbour changed"
    n = len(found)
    if n < 2:
        return Shown(title, 0, n, ())
    ours, theirs = embeddings.neighbours(found, 1)[:, 0], embeddings.neighbours(reference, 1)[:, 0]
    changed, cosine = np.flatnonzero(ours != theirs), angles.cosines(found, reference)
    rows = []
    for index in changed[np.argsort(cosine[changed], kind="stable")][:count].tolist():
        rows.append(
            Row(
                index,
                f"cosine to float {cosine[index]:.4f}",
                pixels.captioned(index, "image")
                + pixels.captioned(int(theirs[index]), "nearest, float")
                + pixels.captioned(int(ours[index]), "nearest, artefact"),
            )
        )
    return Shown(title, len(changed), n, tuple(rows))


def worst_by(
    cosine: Array, pictures: Callable[[int], tuple[tuple[str, Picture], ...]], count: int, word: str
) -> Shown:
    """The images whose outputs moved most."""
    off = int((cosine < angles.KEPT).sum())
    rows = [
        Row(index, f"{word} {cosine[index]:.4f}", pictures(index))
        for index in np.argsort(cosine, kind="stable")[:count].tolist()
    ]
    return Shown("Images whose output is off by more than a tenth", off, len(cosine), tuple(rows))


def vectors(found: Array, reference: Array, pixels: Pixels, count: int) -> Shown:
    """Images whose vectors moved most."""
    cosine = angles.cosines(found, reference)
    return worst_by(cosine, lambda index: pixels.captioned(index, "image"), count, "cosine")


def flat(found: Array, reference: Array, pixels: Pixels, count: int) -> Shown:
    """Images whose output, as one vector, moved most; a single number is told as it is."""
    shown = worst_by(
        angles.alike(found, reference), lambda index: pixels.captioned(index, "image"), count, "cosine"
    )
    before, after = angles.flat(reference), angles.flat(found)
    if before.shape[1] > 1:
        return shown
    rows = [
        replace(row, words=f"float {before[row.index, 0]:.4g}, artefact {after[row.index, 0]:.4g}")
        for row in shown.rows
    ]
    return replace(shown, rows=tuple(rows))


def values(found: Array, reference: Array, pixels: Pixels, count: int) -> Shown:
    """Maps of one number, side by side with their difference; the least alike first."""
    same = maps.correlation(found, reference)

    def pictures(index: int) -> tuple[tuple[str, Picture], ...]:
        before, after = (np.squeeze(each[index]).astype(np.float64) for each in (reference, found))
        low, high = float(before.min()), float(before.max())
        return (
            *pixels.captioned(index, "image"),
            ("float", coloured(before, low, high)),
            ("artefact", coloured(after, low, high)),
            ("difference, a tenth of the scale", coloured(np.abs(after - before), 0.0, 0.1 * (high - low))),
        )

    return worst_by(same, pictures, count, "correlation")


def features(found: Array, reference: Array, pixels: Pixels, count: int) -> Shown:
    """Maps of features by their length, and the cosine of each place; the least alike first."""
    cosine = np.array(
        [angles.cosines(a[None], b[None])[0] for a, b in zip(places(found), places(reference), strict=True)]
    )

    def pictures(index: int) -> tuple[tuple[str, Picture], ...]:
        before, after = (
            np.linalg.norm(each[index].astype(np.float64), axis=0) for each in (reference, found)
        )
        low, high = float(before.min()), float(before.max())
        product = (reference[index].astype(np.float64) * found[index]).sum(0)
        apart = 1 - product / np.maximum(before * after, 1e-12)
        return (
            *pixels.captioned(index, "image"),
            ("length, float", coloured(before, low, high)),
            ("length, artefact", coloured(after, low, high)),
            ("1 - cosine, 0 to 0.1", coloured(apart, 0.0, 0.1)),
        )

    return worst_by(cosine, pictures, count, "cosine")


def places(maps_: Array) -> Array:
    """[n, places, channels]"""
    return maps_.reshape(*maps_.shape[:2], -1).swapaxes(1, 2)


def classes(found: Array, reference: Array, pixels: Pixels, count: int) -> Shown:
    """Maps of classes side by side, and the places whose class changed; the most changed first."""
    ours, theirs = found.argmax(1), reference.argmax(1)
    changed = (ours != theirs).reshape(len(ours), -1).mean(1)

    def pictures(index: int) -> tuple[tuple[str, Picture], ...]:
        moved = np.where((ours[index] != theirs[index])[..., None], 255, 0).astype(np.uint8)
        return (
            *pixels.captioned(index, "image"),
            ("float", painted(theirs[index])),
            ("artefact", painted(ours[index])),
            ("changed", np.repeat(moved, 3, 2)),
        )

    order = np.argsort(-changed, kind="stable")[:count].tolist()
    rows = tuple(
        Row(index, f"{100 * changed[index]:.1f} % of pixels changed", pictures(index)) for index in order
    )
    return Shown("Images with pixels whose class changed", int((changed > 0).sum()), len(changed), rows)


def drawn_boxes(found: Array, reference: Array, pixels: Pixels, count: int) -> Shown:
    """Boxes that no longer match, on their images: the float model's and the artefact's. None without a size."""
    overlap = boxes.overlaps(found, reference)
    lost, drawn = overlap < boxes.MATCHED, np.asarray((reference[..., 2:] > 0).all(-1))
    rows = []
    for index in np.argsort(overlap.mean(1), kind="stable")[:count].tolist():
        order = np.argsort(overlap[index])
        image, shown = pixels.get(index), order[drawn[index][order]][:MOST_BOXES]
        pictures: tuple[tuple[str, Picture], ...] = ()
        if image is not None:
            both = outlined(outlined(image, reference[index][shown], BEFORE), found[index][shown], AFTER)
            pictures = (("image", image), ("float green, artefact magenta", both))
        rows.append(
            Row(index, f"{int(lost[index].sum())} of {int(drawn[index].sum())} boxes changed", pictures)
        )
    return Shown("Images with boxes that no longer match", int(lost.any(1).sum()), len(lost), tuple(rows))


def outlined(image: Picture, shown: Array, colour: tuple[int, int, int]) -> Picture:
    """A copy of an image with boxes (centre x, centre y, width, height; 0..1) drawn on it."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    for x, y, across, down in np.asarray(shown, np.float64).tolist():
        ends = (
            (x - across / 2) * width,
            (y - down / 2) * height,
            (x + across / 2) * width,
            (y + down / 2) * height,
        )
        left, top, right, bottom = (min(max(each, -1.0), float(max(width, height) + 1)) for each in ends)
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=2)
    return np.asarray(picture)


def boxes_on_image(answer: Array, image: Picture | None) -> Picture:
    """The boxes [m, 4] drawn on the picture as the model saw it."""
    blank = np.full((256, 256, 3), 255, np.uint8)
    return outlined(blank if image is None else np.ascontiguousarray(image), answer, AFTER)


def coloured(values_: Array, low: float, high: float) -> Picture:
    """A map [height, width] in colours from `low` to `high`."""
    share = np.clip((values_ - low) / max(high - low, 1e-12), 0, 1) * (len(SCALE) - 1)
    below = np.minimum(share.astype(int), len(SCALE) - 2)
    part = (share - below)[..., None]
    found: Picture = (SCALE[below] * (1 - part) + SCALE[below + 1] * part).round().astype(np.uint8)
    return found


def painted(numbers: Array) -> Picture:
    """A map of class numbers [height, width] in colours that differ."""
    wheel = numbers.astype(np.float64) * 0.618034 % 1.0  # the golden ratio keeps neighbours apart
    angle = 2 * np.pi * (wheel[..., None] + np.array([0, 1 / 3, 2 / 3]))
    found: Picture = (127.5 + 100 * np.cos(angle)).round().astype(np.uint8)
    return found


def map_of_values(answer: Array, image: Picture | None) -> Picture:
    """One map of one number in colours from its least to its largest."""
    found = np.squeeze(answer).astype(np.float64)
    return coloured(found, float(found.min()), float(found.max()))


def map_of_features(answer: Array, image: Picture | None) -> Picture:
    """The length of the features of each place."""
    return map_of_values(np.linalg.norm(answer.astype(np.float64), axis=0), image)


def map_of_classes(answer: Array, image: Picture | None) -> Picture:
    """The likeliest class of each place, a colour each."""
    return painted(answer.argmax(0))
