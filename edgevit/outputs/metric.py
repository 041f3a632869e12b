"""Scores by the user's own function, and classes by text embeddings: other questions to the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.errors import InputError
from edgevit.metrics.classification import Accuracy, answers_by
from edgevit.outputs.output import Outputs, Rows

Scores = npt.NDArray[np.float64]
Metric = Callable[[Any, Any], Any]
DRAWS, MAP_DRAWS = 2000, 500  # of a bootstrap
# Another score takes their place.
BY_LABELS = ("top1", "top5", "reference_top1", "reference_top5", "lost", "won", "p_value")


def with_scores(
    accuracy: Accuracy,
    name: str,
    function: Metric,
    outputs: Outputs,
    found: Rows,
    reference: Rows,
    targets: Any,
) -> Accuracy:
    """A measurement told by the user's function: its mean score, and what of the float model's is lost.

    `function(outputs, targets)` gets an array [n, *shape], of several outputs a dict of them, and the labels [n] or
    None; it gives one score an image, more being better. The interval is a paired bootstrap's (Efron 1979). Raises
    InputError where the function fails or gives something else.
    """
    ours, theirs = (scores_of(name, function, outputs, rows, targets) for rows in (found, reference))
    lost = theirs - ours
    random = np.random.default_rng(0)
    drawn = [float(lost[random.integers(0, len(lost), len(lost))].mean()) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return told_by(accuracy, name, (ours.mean(), theirs.mean()), (lost.mean(), low, high))


def told_by(
    accuracy: Accuracy, name: str, scores: tuple[float, float], lost: tuple[float, float, float]
) -> Accuracy:
    """A measurement told by a score: the artefact's and the float model's, what is lost and its 95 % interval."""
    no_figures: dict[str, Any] = dict.fromkeys(BY_LABELS)
    return replace(
        accuracy,
        metric=name,
        score=float(scores[0]),
        reference_score=float(scores[1]),
        drop_points=float(lost[0]),
        drop_low=float(lost[1]),
        drop_high=float(lost[2]),
        **no_figures,
    )


def scores_of(name: str, function: Metric, outputs: Outputs, rows: Rows, targets: Any) -> Scores:
    """One score an image. Raises InputError."""
    parts = outputs.split(rows)
    given = (
        parts[0]
        if len(parts) == 1
        else {each.name: part for each, part in zip(outputs.each, parts, strict=True)}
    )
    what = f"cannot measure by {name}"
    try:
        answer = function(given, targets)
        found = np.asarray(answer, dtype=np.float64)
    except Exception as error:  # the user's own code
        text = " ".join(str(error).split())[:200]
        raise InputError(
            what, f"it fails with {type(error).__name__}: {text}", "Correct the function"
        ) from error
    if found.shape != (len(rows),):
        shape = list(found.shape)
        raise InputError(
            what, f"for {len(rows)} images it gives scores of shape {shape}", "Return one score an image"
        )
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found)).sum())
        raise InputError(
            what, f"{bad} of its {len(rows)} scores are no numbers", "Return a score for each image"
        )
    return found


def read_text_embeddings(path: Path) -> Rows:
    """Text embeddings [classes, width] of a .npy, or a .safetensors of one tensor. Raises InputError."""
    what = f"cannot read --text-embeddings {path}"
    if not path.is_file():
        raise InputError(what, "no such file", "Check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            tensors = list(load_file(path).values())
            if len(tensors) != 1:
                raise InputError(what, f"it holds {len(tensors)} tensors", "Save one, [classes, width]")
            found = tensors[0]
        else:
            found = np.load(path, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # of either reader
        raise InputError(what, "it is damaged or of another format", "Save it with numpy.save") from error
    if found.ndim != 2 or not len(found) or not np.issubdtype(found.dtype, np.floating):
        shape = list(found.shape)
        raise InputError(what, f"it holds {found.dtype} of shape {shape}", "Save floats [classes, width]")
    if not np.isfinite(found).all():
        raise InputError(what, "some of its numbers are not finite", "Make the embeddings again")
    return found.astype(np.float32)


def fit_texts(texts: Rows, outputs: Outputs) -> None:
    """Raises InputError where text embeddings are not as wide as the model's, or it gives no embedding."""
    first = outputs.first
    if not first.means.among_others:
        raise InputError(
            "cannot use --text-embeddings",
            f"the model gives {first.means.description}",
            "Choose its embedding with --output",
        )
    if texts.shape[1] != first.size:
        raise InputError(
            "cannot use --text-embeddings",
            f"they are {texts.shape[1]} wide and the model's are {first.size}",
            "Make both with one model: its projections included",
        )


def by_texts(
    accuracy: Accuracy, outputs: Outputs, texts: Rows, found: Rows, reference: Rows, labels: Any
) -> Accuracy:
    """A measurement told by zero-shot classes: the text embedding nearest to each image's."""
    unit = texts / np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-12)
    near = [outputs.split(rows)[0] @ unit.T for rows in (found, reference)]
    best = [np.argsort(-each, axis=1, kind="stable")[:, :5] for each in near]
    first = [each[:, 0] == labels for each in best]
    five = [(each == np.asarray(labels)[:, None]).any(1) for each in best]
    return replace(accuracy, metric="zero-shot", **answers_by(*first, *five))


def by_label_maps(accuracy: Accuracy, outputs: Outputs, maps: Any, found: Rows, reference: Rows) -> Accuracy:
    """A measurement of class maps told by label maps uint8 [n, height, width]: mean IoU in %, what of it is lost.

    A class counts where a label or a prediction has it; the interval is a bootstrap's over images, paired.
    """
    classes = outputs.first.shape[0]
    counts = [
        np.stack(
            [confusion(scores.argmax(0), truth, classes) for scores, truth in zip(split, maps, strict=True)]
        )
        for split in (outputs.split(found)[0], outputs.split(reference)[0])
    ]
    random, n = np.random.default_rng(0), len(maps)
    weights = random.multinomial(n, np.full(n, 1 / n), size=MAP_DRAWS)
    drawn = [mean_iou_of((weights @ each.reshape(n, -1)).reshape(-1, classes, classes)) for each in counts]
    ours, theirs = (float(mean_iou_of(each.sum(0)[None])[0]) for each in counts)
    low, high = np.quantile(drawn[1] - drawn[0], (0.025, 0.975))
    scores, lost = (100 * ours, 100 * theirs), (100 * (theirs - ours), 100 * low, 100 * high)
    return told_by(accuracy, "mean IoU by labels, %", scores, lost)


def confusion(found: Any, truth: Any, classes: int) -> Rows:
    """Counts [classes, classes] of labelled places by label and prediction."""
    known = truth < classes
    pairs = truth[known].astype(np.int64) * classes + found[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def mean_iou_of(counts: Rows) -> Scores:
    """Mean intersection over union of counts [..., classes, classes]; classes that nobody has are left out."""
    both = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    either = counts.sum(-1) + counts.sum(-2) - both
    share = np.where(either > 0, both / np.maximum(either, 1), np.nan)
    found: Scores = np.nanmean(share, axis=-1)
    return found
