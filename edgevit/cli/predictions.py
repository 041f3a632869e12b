"""How `edgevit predict` shows answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgevit.backends.protocol import Pixels
from edgevit.cli.console import print_table
from edgevit.errors import InputError
from edgevit.files import refuse_to_overwrite
from edgevit.images.labels import fitting, read_labels
from edgevit.prediction.predict import Prediction, Source, float_model, read_images
from edgevit.progress import Progress


def with_labels(source: Source, labels: str | None) -> Source:
    """The source with the user's class names, if any were given. Raises InputError where they don't fit."""
    if labels is None:
        return source
    classes = source.run.manifest.model.num_classes
    return replace(source, names=fitting(read_labels(labels), classes))


def check_attention(out: Path, kept: list[Path]) -> None:
    """Raise InputError for a drawing's name that has no known format, or that would replace one of `kept`."""
    from edgevit.prediction.rollout import check_format

    check_format(out)
    refuse_to_overwrite(out, kept)


def draw_attention(
    source: Source, found: list[Prediction], pixels: list[Pixels | str], out: Path, progress: Progress
) -> None:
    """Draw the float model's attention on the pictures that could be read."""
    from edgevit.prediction.rollout import draw, rollout

    loaded = float_model(source.run, progress)
    read = [Path(each.image) for each in found if each.error is None]
    seen = pixels if loaded.preprocessing == source.preprocessing else read_images(read, loaded.preprocessing)
    pictures = [each for each in seen if not isinstance(each, str)]
    if pictures:
        maps = rollout(loaded, np.stack(pictures))
        shown = [each[..., ::-1] if loaded.preprocessing.channels == "BGR" else each for each in pictures]
        draw(maps, shown, [path.name[-40:] for path in read], out)


def print_predictions(
    source: Source, found: list[Prediction], attention: Path | None, saved: Sequence[Path] = ()
) -> None:
    """One table: a line for each guess, the picture's name on its first."""
    rows = []
    for each in found:
        if each.error is not None:
            rows.append((each.image, f"not read: {each.error}", ""))
        for number, guess in enumerate(each.guesses):
            rows.append(("" if number else each.image, guess.name, f"{100 * guess.probability:.2f} %"))
        for number, text in enumerate(each.outputs):
            rows.append(("" if number else each.image, text, ""))
    classes = source.run.manifest.model.gives.classes is not None
    notes = ["probabilities are the model's own; host CPU" if classes else "host CPU"]
    if saved:
        notes.append(f"{len(saved)} files in {saved[0].parent}")
    elif not classes:
        notes.append("--save DIR writes the outputs")
    notes += [f"attention: {attention}"] if attention is not None and attention.exists() else []
    print_table(
        source.title, ("image", "class", "probability") if classes else ("image", "gives", ""), rows, notes
    )


def refuse_unread(found: list[Prediction]) -> None:
    """Raise InputError if a picture couldn't be read; the others have their answers by now."""
    bad = [each for each in found if each.error is not None]
    if bad:
        named = "; ".join(f"{each.image}: {each.error}" for each in bad)
        fix = "Give pictures" if len(bad) == len(found) else "The others were predicted"
        raise InputError(f"cannot read {len(bad)} of {len(found)} images", named, fix)
