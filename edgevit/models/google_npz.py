"""Weights of google-research's vision transformers (.npz), by timm's own reading of them."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.files import refuse_irregular
from edgevit.models.checkpoint import Checkpoint, one_line

import timm  # isort: skip

SUFFIX = ".npz"
BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/")


def is_file(path: Path | None) -> bool:
    """Whether weights are such a file, by name."""
    return path is not None and path.suffix.lower() == SUFFIX


def read(name: str, path: Path) -> Checkpoint:
    """A file's weights under timm's names for the model `name`. Raises InputError for another model's.

    No parameter is left as it was made, and no block of the file unread.
    """
    what = f"cannot read weights {path}"
    refuse_irregular(path, what)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = list(arrays.files)
            head = next((each for each in names if each.endswith("head/kernel")), None)
            classes = 0 if head is None else int(arrays[head].shape[-1])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError, IndexError) as error:
        raise InputError(
            what, f"it is no sound .npz ({one_line(error)})", "Copy or download it again"
        ) from None
    if head is None:
        raise InputError(
            what, "it has no head/kernel, so no classifier", "Give the weights of a fine-tuned model"
        )
    module: Any = timm.create_model(name, num_classes=classes)
    fix = "Name the model that the file was trained as"
    if not hasattr(module, "load_pretrained") or not hasattr(module, "blocks"):
        raise InputError(what, f"timm can't read such files for {name}", fix)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    try:
        module.load_pretrained(str(path))
    except Exception as error:  # a wrong shape or name, in timm's and torch's words
        raise InputError(f"cannot load {path} into {name}", one_line(error), fix) from None
    blocks = 1 + max((int(found[1]) for each in names if (found := BLOCK.search(each))), default=-1)
    unread = blocks != len(module.blocks) and blocks > 0
    missing = [key for key, value in module.named_parameters() if bool(torch.isnan(value).any())]
    if unread or missing:
        why = (
            f"it has {blocks} blocks and the model {len(module.blocks)}"
            if unread
            else f"it lacks {missing[0]}"
        )
        raise InputError(f"cannot load {path} into {name}", why, fix)
    return Checkpoint(path, dict(module.state_dict()))
