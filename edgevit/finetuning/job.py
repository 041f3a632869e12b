"""What a fine-tuning is asked to do, checked before any work begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgevit.errors import InputError
from edgevit.images.preprocessing_request import PreprocessingRequest, parse_preprocessing
from edgevit.request.job import DEMO

Freeze = int | Literal["backbone", "none"]
BACKBONE: Literal["backbone"] = "backbone"
NONE: Literal["none"] = "none"
MINUTES, EPOCHS = 30.0, 30


@dataclass(frozen=True)
class FinetuneJob:
    """A model, pictures to learn from, and how much of the model may change.

    `freeze`: all but the classifier ("backbone"), so many blocks from the input, or "none". Training ends after
    `epochs` or `minutes`, whichever comes first. `weights` are what it starts from; None: as the model comes.
    The answers of a `teacher` are learnt beside the labels. `lora`: the rank of adapters that learn in place of
    the blocks they stand beside; None: none.
    """

    model: str
    train: Path
    out: Path
    weights: Path | None = None
    validation: Path | None = None
    freeze: Freeze = BACKBONE
    epochs: int = EPOCHS
    minutes: float = MINUTES
    seed: int = 0
    preprocessing: PreprocessingRequest = PreprocessingRequest()
    teacher: str | None = None
    teacher_weights: Path | None = None
    lora: int | None = None

    def settings(self) -> dict[str, Any]:
        """What decides the result beside model and pictures."""
        found: dict[str, Any] = {"freeze": self.freeze, "epochs": self.epochs, "seed": self.seed}
        extra = {"teacher": self.teacher, "teacher_weights": self.teacher_weights, "lora": self.lora}
        return found | {name: value for name, value in extra.items() if value}


def make_finetune_job(
    model: str,
    train: Path,
    *,
    out: Path | None = None,
    freeze: str | int = BACKBONE,
    epochs: int | None = None,
    minutes: float | None = None,
    **options: Any,
) -> FinetuneJob:
    """Check a request. Raises InputError."""
    if model == DEMO:
        raise InputError("cannot fine-tune", "no model is named", "Name one, such as deit_tiny_patch16_224")
    if options.get("teacher") and parse_freeze(freeze) == BACKBONE and not options.get("lora"):
        why = "with a frozen backbone the best classifier of the labels is computed"
        raise InputError("--teacher can't be used", why, "Add --freeze none, a number of blocks, or --lora 8")
    if options.get("teacher_weights") and not options.get("teacher"):
        raise InputError(
            "--teacher-weights can't be used", "no --teacher is named", "Name it, or leave them out"
        )
    preprocessing = parse_preprocessing(options)
    if preprocessing.classes is not None:
        why = "class names are those of the folders in --train"
        raise InputError("--classes can't be used", why, "Leave it out, or rename the folders")
    return FinetuneJob(
        model=model,
        train=train,
        out=out or Path("runs") / f"{Path(model.partition(':')[2] or model).stem}-{train.stem}",
        freeze=parse_freeze(freeze),
        epochs=EPOCHS if epochs is None else epochs,
        minutes=MINUTES if minutes is None else minutes,
        preprocessing=preprocessing,
        **options,
    )


def parse_freeze(given: str | int) -> Freeze:
    """ "backbone", "none" or a number of blocks. Raises InputError."""
    text = str(given)
    if text == BACKBONE:
        return BACKBONE
    if text == NONE or (text.isdigit() and int(text) == 0):
        return NONE
    if re.fullmatch(r"\d{1,4}", text):
        return int(text)
    raise InputError(
        f"--freeze {text} can't be used",
        "it is neither backbone, nor none, nor a number of blocks",
        "Use backbone (only a new classifier), none (everything learns), or the number of first blocks to keep",
    )
