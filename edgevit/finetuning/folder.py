"""What a fine-tuning leaves behind: a folder that `convert`, `inspect` and timm itself take as a model.

`model.safetensors`, `config.json` in timm's layout with the preprocessing and the classes, `labels.txt`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from edgevit import __version__
from edgevit.errors import EdgevitError
from edgevit.files import write_atomically
from edgevit.finetuning.learner import Learner
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import load_model
from edgevit.models.huggingface_config import CONFIG
from edgevit.models.timm_folder import BUILT_BY, WEIGHTS

LABELS, HISTORY = "labels.txt", "training.json"
SAME = 1e-4


def write_folder(
    folder: Path, learner: Learner, module: nn.Module, names: tuple[str, ...], training: dict[str, Any]
) -> None:
    """Write what a learner became, and prove that it is read back the same. Raises EdgevitError where it is not.

    In timm's layout; a model of transformers in that of transformers.
    """
    write_atomically(folder / LABELS, "".join(f"{name}\n" for name in names))
    write_atomically(folder / HISTORY, json.dumps(training, indent=1) + "\n")
    if learner.save is not None:
        write_own_layout(folder, learner)
    else:
        write_timm_layout(folder, learner, module, names)
    prove(folder, module, learner.preprocessing)


def write_own_layout(folder: Path, learner: Learner) -> None:
    """The files that a model's own library writes, and what edgevit adds to their configuration."""
    assert learner.save is not None
    with tempfile.TemporaryDirectory(dir=folder, prefix=".model-") as staging:
        learner.save(Path(staging))
        config = Path(staging) / CONFIG
        values = json.loads(config.read_text(encoding="utf-8"))
        own = {"version": __version__, "preprocessing": learner.preprocessing.to_json()}
        write_atomically(config, json.dumps(values | {"edgevit": own}, indent=1) + "\n")
        for path in sorted(Path(staging).iterdir(), key=lambda path: path.name == CONFIG):
            path.replace(folder / path.name)


def write_timm_layout(folder: Path, learner: Learner, module: nn.Module, names: tuple[str, ...]) -> None:
    """`model.safetensors` and `config.json` as timm writes them."""
    preprocessing, model = learner.preprocessing, learner.built_from
    assert model is not None
    config: dict[str, Any] = {
        "num_classes": len(names),
        "label_names": list(names),
        "pretrained_cfg": {
            "input_size": [len(preprocessing.mean), *preprocessing.size],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_pct,
            "crop_mode": preprocessing.crop_mode,
        },
        "edgevit": {"version": __version__, "preprocessing": preprocessing.to_json()},
    }
    if ".py:" in model:
        file, _, function = model.rpartition(":")
        config["edgevit"][BUILT_BY] = f"{Path(file).resolve()}:{function}"
        config["edgevit"]["classifier"] = learner.classifier
    else:
        config["architecture"] = model
    state = {name: each.detach().cpu().contiguous() for name, each in module.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, json.dumps(config, indent=1) + "\n")


def prove(folder: Path, module: nn.Module, preprocessing: Preprocessing) -> None:
    """Raises EdgevitError where the folder gives another function than the module it was written from."""
    again = load_model(str(folder))
    shape = (2, len(preprocessing.mean), *preprocessing.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        apart = float((again.module(images) - module.eval().cpu()(images)).abs().max())
    if apart > SAME or again.preprocessing != preprocessing:
        raise EdgevitError(
            f"cannot keep the fine-tuned model in {folder}",
            f"read back it gives other outputs (by {apart:.1e})",
            "Report the model",
        )
