"""A Hugging Face directory: a ViT or DeiT is mapped without importing transformers, which runs the others."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.models import differences, huggingface_any
from edgevit.models.checkpoint import read_checkpoint
from edgevit.models.huggingface_config import CONFIG, Config, Named, check_shape, read, read_json
from edgevit.models.huggingface_forward import forward
from edgevit.models.huggingface_preprocessing import preprocessing_of
from edgevit.models.model import LoadedModel, finish, prove_equal

from timm.layers.activations import QuickGELU  # isort: skip
from timm.layers.norm import LayerNorm  # isort: skip
from timm.models.deit import VisionTransformerDistilled  # isort: skip
from timm.models.vision_transformer import VisionTransformer  # isort: skip

Weights = dict[str, torch.Tensor]
DISTILLED = "DeiTForImageClassificationWithTeacher"
BODIES = ("ViTModel", "DeiTModel")  # without a classifier: the class token after the last norm
ARCHITECTURES = ("ViTForImageClassification", "DeiTForImageClassification", DISTILLED, *BODIES)
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
ATTENTION = {
    "q": "attention.attention.query",
    "k": "attention.attention.key",
    "v": "attention.attention.value",
    "o": "attention.output.dense",
}
IN_MEMORY: tuple[tuple[str, Any], ...] = (
    (r"^layers\.(\d+)\.attention\.([qkvo])_proj\.", lambda m: f"encoder.layer.{m[1]}.{ATTENTION[m[2]]}."),
    (r"^layers\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"^layers\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
    (r"^layers\.(\d+)\.", r"encoder.layer.\1."),
)
HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.", "pooler.")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def load(folder: Path, *, num_classes: int | None = None, size: tuple[int, int] | None = None) -> LoadedModel:
    """The model of a directory with config.json and weights, as timm's VisionTransformer.

    `parity` compares it with a plain functional forward over the original tensors. DeiT with a distillation
    token becomes timm's VisionTransformerDistilled.
    """
    name = str(folder)
    named = read(folder, CONFIG, Named)
    architecture = architecture_of(folder, named)
    if architecture not in ARCHITECTURES:
        return huggingface_any.load(
            folder, architecture, labels=labels_of(named), num_classes=num_classes, size=size
        )
    config = read(folder, CONFIG, Config)
    check_shape(folder / CONFIG, config)
    activation = activation_of(folder, config)
    weights, notes = read_weights(folder)
    own = config.image_size
    if size is not None and size != own:
        raise InputError(
            f"cannot load {folder} at {size[0]}x{size[1]}",
            f"its weights are for {own[0]}x{own[1]}",
            "Load it at its own size",
        )
    preprocessing = preprocessing_of(folder, config.num_channels, own, notes)
    if architecture in BODIES:
        weights = {key: value for key, value in weights.items() if not key.startswith(HEADS)}
        notes.append("its embedding is the class token after the last norm; a pooler is left out")
    module = build(folder, config, weights, architecture)
    original = functools.partial(
        forward,
        weights,
        heads=config.num_attention_heads,
        eps=config.layer_norm_eps,
        activation=activation(),
    )
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


def architecture_of(folder: Path, config: Named) -> str:
    """The architecture a configuration names."""
    return (config.architectures or (config.model_type,))[0]


def activation_of(folder: Path, config: Config) -> Callable[..., nn.Module]:
    """Constructor of the MLP's activation."""
    named = config.hidden_act
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
        files = shards(index)
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
        weights |= {classic(key): value for key, value in checkpoint.weights.items()}
    return weights, notes


def classic(key: str) -> str:
    """A key without "vit." or "deit.", under the names save_pretrained writes.

    transformers 5 has shorter ones in memory, which a plain state dict carries.
    """
    key = key.removeprefix("vit.").removeprefix("deit.")
    for new, old in IN_MEMORY:
        key = re.sub(new, old, key)
    return key


def shards(index: Path) -> list[Path]:
    """Files that an index lists; only names beside it, whatever the index says."""
    named = read_json(index.parent, index.name).get("weight_map")
    found = list(named.values()) if isinstance(named, dict) else []
    if not found or not all(isinstance(name, str) and name == Path(name).name for name in found):
        raise InputError(f"cannot read {index}", "it lists no weights files", "Copy or download it again")
    return [index.parent / name for name in sorted(set(found))]


def build(folder: Path, config: Config, weights: Weights, architecture: str) -> nn.Module:
    """timm's module around the mapped tensors."""
    head = weights.get("cls_classifier.weight" if architecture == DISTILLED else "classifier.weight")
    if head is None and architecture not in BODIES:
        why = "its weights have no classifier"
        raise InputError(f"cannot load {folder}", why, "Give the directory of a fine-tuned model")
    kind = VisionTransformerDistilled if architecture == DISTILLED else VisionTransformer
    mapped = canonical_weights(folder, weights)
    extra: dict[str, Any] = {}
    if kind is VisionTransformer and "dist_token" in mapped:
        # DeiT without its second head still has the second token, and classifies the first: a register token.
        mapped["reg_token"] = mapped.pop("dist_token")
        extra["reg_tokens"] = 1
    with torch.device("meta"):
        module = kind(
            img_size=config.image_size,
            patch_size=config.patch_size,
            in_chans=config.num_channels,
            num_classes=0 if head is None or architecture in BODIES else int(head.shape[0]),
            embed_dim=config.hidden_size,
            depth=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            # Half a unit more: int(width * ratio) inside timm must not round down.
            mlp_ratio=(config.intermediate_size + 0.5) / config.hidden_size,
            qkv_bias=config.qkv_bias,
            norm_layer=functools.partial(LayerNorm, eps=config.layer_norm_eps),
            act_layer=activation_of(folder, config),
            **extra,
        )
    differences.refuse(f"the model of {folder / CONFIG}", folder, module.state_dict(), mapped)
    module.load_state_dict(mapped, strict=True, assign=True)
    return module.eval().requires_grad_(False)  # type: ignore[no-any-return]


def canonical_weights(folder: Path, weights: Weights) -> Weights:
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
            if part.startswith("attention.attention."):
                names = [f"encoder.layer.{number}.{ATTENTION[letter]}.{kind}" for letter in "qkv"]
                lacking = [name for name in names if name not in weights]
                if lacking:
                    why = f"its weights have {key} but no {lacking[0]}"
                    raise InputError(f"cannot load {folder}", why, "Copy or download the directory again")
                if key == names[0]:
                    mapped[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat([weights[name] for name in names])
            else:
                mapped[f"blocks.{number}.{BLOCK.get(part, part)}.{kind}"] = value
    return mapped


def labels_of(config: Named) -> tuple[str, ...] | None:
    """Class names in order; None for the placeholders LABEL_0, LABEL_1, ... or where there are none."""
    named = config.id2label or {}
    try:
        ordered = [str(named[key]) for key in sorted(named, key=int)]
    except (TypeError, ValueError):
        return None
    if not ordered or ordered == [f"LABEL_{index}" for index in range(len(ordered))]:
        return None
    return tuple(ordered)
