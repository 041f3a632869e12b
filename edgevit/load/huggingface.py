"""A Hugging Face directory of a ViT or DeiT classifier, mapped without importing transformers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.load import differences
from edgevit.load.checkpoint import read_checkpoint
from edgevit.load.huggingface_forward import forward
from edgevit.load.huggingface_preprocessing import preprocessing_of
from edgevit.load.model import LoadedModel, finish, prove_equal

from timm.layers.activations import QuickGELU  # isort: skip
from timm.layers.norm import LayerNorm  # isort: skip
from timm.models.deit import VisionTransformerDistilled  # isort: skip
from timm.models.vision_transformer import VisionTransformer  # isort: skip

Weights = dict[str, torch.Tensor]
DISTILLED = "DeiTForImageClassificationWithTeacher"
ARCHITECTURES = ("ViTForImageClassification", "DeiTForImageClassification", DISTILLED)
ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_new": functools.partial(nn.GELU, approximate="tanh"),
    "gelu_pytorch_tanh": functools.partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
}
BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def load(folder: Path, *, num_classes: int | None = None, size: tuple[int, int] | None = None) -> LoadedModel:
    """The classifier of a directory with config.json and weights, as timm's VisionTransformer.

    `parity` compares it with a plain functional forward over the original tensors. DeiT with a distillation
    token becomes timm's VisionTransformerDistilled.
    """
    name = str(folder)
    config = read_json(folder, "config.json")
    architecture = architecture_of(folder, config)
    weights, notes = read_weights(folder)
    own = pair(config.get("image_size", 224))
    if size is not None and size != own:
        raise InputError(
            f"cannot load {folder} at {size[0]}x{size[1]}",
            f"its weights are for {own[0]}x{own[1]}",
            "Load it at its own size",
        )
    preprocessing = preprocessing_of(folder, config, own, notes)
    module = build(folder, config, weights, architecture)
    heads, eps = int(config.get("num_attention_heads", 12)), float(config.get("layer_norm_eps", 1e-12))
    activation = activation_of(folder, config)()
    original = functools.partial(forward, weights, heads=heads, eps=eps, activation=activation)
    return finish(
        name,
        module,
        preprocessing,
        source=f"Hugging Face {architecture} in {folder.name}",
        num_classes=num_classes,
        labels=labels_of(config),
        parity=prove_equal(name, module, original, preprocessing),
        notes=notes,
    )


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the directory. Raises InputError where it is absent or not one."""
    path = folder / name
    if not path.is_file():
        raise InputError(
            f"cannot load {folder}",
            f"it has no {name}",
            "Give a directory written by save_pretrained(), or a timm name",
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"cannot read {path}", f"not JSON ({error})", "Copy or download it again") from error
    if not isinstance(values, dict):
        raise InputError(f"cannot read {path}", "not a JSON object", "Copy or download it again")
    return values


def architecture_of(folder: Path, config: dict[str, Any]) -> str:
    """The supported architecture a configuration names."""
    named = (config.get("architectures") or [config.get("model_type", "none")])[0]
    timm_name = config.get("architecture")
    if "architectures" not in config and isinstance(timm_name, str):
        raise InputError(
            f"cannot load {folder}",
            "it is a directory of timm's",
            f"Name the model: {timm_name} --weights {folder / WEIGHT_FILES[0]}",
        )
    if named not in ARCHITECTURES:
        raise InputError(
            f"cannot load {folder}",
            f"architecture {named} is not supported; {', '.join(ARCHITECTURES)} are",
            "Write a Python file that builds it and name that (file.py:function)",
        )
    return str(named)


def activation_of(folder: Path, config: dict[str, Any]) -> Callable[..., nn.Module]:
    """Constructor of the MLP's activation."""
    named = config.get("hidden_act", "gelu")
    if named not in ACTIVATIONS:
        raise InputError(
            f"cannot load {folder}",
            f"hidden_act {named!r} is not supported; {', '.join(ACTIVATIONS)} are",
            "Write a Python file that builds it and name that (file.py:function)",
        )
    return ACTIVATIONS[named]


def read_weights(folder: Path) -> tuple[Weights, list[str]]:
    """State dict of a directory, from one file or the shards an index lists; keys without "vit." or "deit."."""
    indexes = [folder / f"{name}.index.json" for name in WEIGHT_FILES]
    single = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    index = next((path for path in indexes if path.is_file()), None)
    if single is not None:
        files = [single]
    elif index is not None:
        named = read_json(folder, index.name).get("weight_map", {})
        files = [folder / name for name in sorted(set(named.values()))]
    else:
        raise InputError(
            f"cannot load {folder}",
            f"it has no weights ({' or '.join(WEIGHT_FILES)})",
            "Copy the whole directory that save_pretrained() wrote",
        )
    weights: Weights = {}
    notes: list[str] = []
    for file in files:
        checkpoint = read_checkpoint(file)
        notes += checkpoint.notes
        weights |= {
            key.removeprefix("vit.").removeprefix("deit."): v for key, v in checkpoint.weights.items()
        }
    return weights, notes


def build(folder: Path, config: dict[str, Any], weights: Weights, architecture: str) -> nn.Module:
    """timm's module around the mapped tensors."""
    hidden = int(config.get("hidden_size", 768))
    head = weights.get("cls_classifier.weight" if architecture == DISTILLED else "classifier.weight")
    if head is None:
        why = "its weights have no classifier"
        raise InputError(f"cannot load {folder}", why, "Give the directory of a fine-tuned model")
    kind = VisionTransformerDistilled if architecture == DISTILLED else VisionTransformer
    mapped = canonical_weights(weights)
    extra: dict[str, Any] = {}
    if kind is VisionTransformer and "dist_token" in mapped:
        # DeiT without its second head still has the second token, and classifies the first: a register token.
        mapped["reg_token"] = mapped.pop("dist_token")
        extra["reg_tokens"] = 1
    with torch.device("meta"):
        module = kind(
            img_size=pair(config.get("image_size", 224)),
            patch_size=pair(config.get("patch_size", 16)),
            in_chans=int(config.get("num_channels", 3)),
            num_classes=int(head.shape[0]),
            embed_dim=hidden,
            depth=int(config.get("num_hidden_layers", 12)),
            num_heads=int(config.get("num_attention_heads", 12)),
            # Half a unit more: int(width * ratio) inside timm must not round down.
            mlp_ratio=(int(config.get("intermediate_size", 4 * hidden)) + 0.5) / hidden,
            qkv_bias=bool(config.get("qkv_bias", True)),
            norm_layer=functools.partial(LayerNorm, eps=float(config.get("layer_norm_eps", 1e-12))),
            act_layer=activation_of(folder, config),
            **extra,
        )
    differences.refuse(f"the model of {folder / 'config.json'}", folder, module.state_dict(), mapped)
    module.load_state_dict(mapped, strict=True, assign=True)
    return module.eval().requires_grad_(False)  # type: ignore[no-any-return]


def canonical_weights(weights: Weights) -> Weights:
    """Tensors under timm's names; query, key and value stacked in that order."""
    whole = {
        "embeddings.cls_token": "cls_token",
        "embeddings.distillation_token": "dist_token",
        "embeddings.position_embeddings": "pos_embed",
    }
    stems = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "layernorm": "norm",
        "classifier": "head",
        "cls_classifier": "head",
        "distillation_classifier": "head_dist",
    }
    mapped: Weights = {}
    for key, value in weights.items():
        stem, _, kind = key.rpartition(".")
        if key in whole:
            mapped[whole[key]] = value
        elif stem in stems:
            mapped[f"{stems[stem]}.{kind}"] = value
        elif not stem.startswith("encoder.layer."):
            if not key.startswith(("pooler.", "embeddings.mask_token")):  # not part of the classifier
                mapped[key] = value
        else:
            number, _, part = stem.removeprefix("encoder.layer.").partition(".")
            if part == "attention.attention.query":
                names = [key.replace(".query.", f".{other}.") for other in ("query", "key", "value")]
                mapped[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat([weights[name] for name in names])
            elif part not in ("attention.attention.key", "attention.attention.value"):
                mapped[f"blocks.{number}.{BLOCK.get(part, part)}.{kind}"] = value
    return mapped


def labels_of(config: dict[str, Any]) -> tuple[str, ...] | None:
    """Class names in order; None for the placeholders LABEL_0, LABEL_1, ... or where there are none."""
    named = config.get("id2label") or {}
    try:
        ordered = [str(named[key]) for key in sorted(named, key=int)]
    except (TypeError, ValueError):
        return None
    if not ordered or ordered == [f"LABEL_{index}" for index in range(len(ordered))]:
        return None
    return tuple(ordered)


def pair(value: Any) -> tuple[int, int]:
    """(height, width) of a configuration's number or pair."""
    if isinstance(value, list | tuple):
        return int(value[0]), int(value[1])
    return int(value), int(value)
