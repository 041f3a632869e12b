"""torchvision's vit_* and state dicts in its layout, mapped into timm's VisionTransformer and proved equal."""

from __future__ import annotations

import difflib
import functools
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from edgevit.models import differences
from edgevit.models.checkpoint import Checkpoint, one_line
from edgevit.models.model import LoadedModel, finish, prove_equal

import timm  # isort: skip
import torchvision  # isort: skip
from timm.layers.norm import LayerNorm  # isort: skip
from timm.models.vision_transformer import VisionTransformer  # isort: skip

PREFIX = "torchvision:"
EPS = 1e-6
SHAPES = {  # variant: (embedding width, depth, heads, patch size)
    "vit_b_16": (768, 12, 12, 16),
    "vit_b_32": (768, 12, 12, 32),
    "vit_l_16": (1024, 24, 16, 16),
    "vit_l_32": (1024, 24, 16, 32),
    "vit_h_14": (1280, 32, 16, 14),
}
RENAMES = (
    ("conv_proj.", "patch_embed.proj."),
    ("class_token", "cls_token"),
    ("encoder.pos_embedding", "pos_embed"),
    ("encoder.ln.", "norm."),
    ("heads.head.", "head."),
    (r"encoder.layers.encoder_layer_", "blocks."),
    (".ln_", ".norm"),
    (".self_attention.in_proj_", ".attn.qkv."),
    (".self_attention.out_proj.", ".attn.proj."),
    (".mlp.linear_", ".mlp.fc"),  # before torchvision 0.12
    (".mlp.0.", ".mlp.fc1."),
    (".mlp.3.", ".mlp.fc2."),
)


def is_reference(name: str) -> bool:
    """Whether a model's name says torchvision."""
    return name.startswith(PREFIX)


def is_variant(name: str) -> bool:
    """Whether a model's name is torchvision's own, or says torchvision."""
    return is_reference(name) or name in SHAPES


def is_layout(weights: dict[str, torch.Tensor]) -> bool:
    """Whether a state dict has the keys of a torchvision ViT."""
    return {"class_token", "encoder.pos_embedding", "conv_proj.weight"} <= weights.keys()


def load(
    name: str,
    checkpoint: Checkpoint | None,
    *,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
) -> LoadedModel:
    """A torchvision ViT as the canonical ViT, with the logit difference between the two in `parity`."""
    variant = name.removeprefix(PREFIX)
    if is_reference(name) and variant not in SHAPES:
        near = difflib.get_close_matches(variant, SHAPES, n=1, cutoff=0.4)
        raise InputError(
            f"cannot load {name}",
            f"only torchvision's {', '.join(SHAPES)} are supported",
            f"Did you mean {PREFIX}{near[0]}" if near else "Use the model's timm name",
        )
    labels: tuple[str, ...] | None = None
    notes: list[str] = []
    if checkpoint is None:
        weights, preprocessing, labels = download(name, variant)
        source = f"torchvision pretrained {variant}"
    else:
        weights, notes = checkpoint.weights, list(checkpoint.notes)
        source = f"torchvision layout, weights {checkpoint.path.name}"
        refuse_other_layout(name, checkpoint)
        preprocessing = preprocessing_for(variant, weights, notes)
        if not is_variant(name):
            notes.append(f"the weights are torchvision's; {name} names their shape, not their preprocessing")
    refuse_size(name, size, preprocessing.size)
    path = checkpoint.path if checkpoint is not None else Path(variant)
    # No state dict tells the attention heads; the name does, and its shape fits (refuse_other_layout).
    heads = shape_named(name)["heads"]
    original = build_original(name, path, weights, heads)
    if "heads.pre_logits.weight" in weights:
        notes.append("kept as torchvision's module: its head has a hidden layer")
        module, parity = original, None
    else:
        module = build_canonical(weights, heads)
        parity = prove_equal(name, module, original, preprocessing)
    return finish(
        name,
        module,
        preprocessing,
        source=source,
        num_classes=num_classes,
        labels=labels,
        parity=parity,
        notes=notes,
    )


def download(
    name: str, variant: str
) -> tuple[dict[str, torch.Tensor], Preprocessing, tuple[str, ...] | None]:
    """torchvision's default weights of a variant, with their own preprocessing and class names."""
    chosen = torchvision.models.get_model_weights(variant).DEFAULT
    try:
        weights = dict(chosen.get_state_dict(progress=False, check_hash=True))
    except Exception as error:
        raise InputError(
            f"cannot download the weights of {name}",
            one_line(error),
            "Pass a weights file with --weights, or check the connection and try again",
        ) from error
    return weights, from_transforms(chosen.transforms()), tuple(chosen.meta["categories"])


def from_transforms(transforms: Any) -> Preprocessing:
    """torchvision's ImageClassification preset as Preprocessing."""
    side = int(transforms.crop_size[0])
    return Preprocessing(
        size=(side, side),
        crop_pct=side / transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        resize_to=int(transforms.resize_size[0]),
    )


def preprocessing_for(variant: str, weights: dict[str, torch.Tensor], notes: list[str]) -> Preprocessing:
    """A variant's ImageNet preprocessing; at other sizes torchvision's weights use the full image, bicubic."""
    side = image_size(weights)
    if side == 224:
        known = torchvision.models.get_model_weights(variant) if variant in SHAPES else ()
        first = next((choice for choice in known if choice.name == "IMAGENET1K_V1"), None)
        if first is not None:
            return from_transforms(first.transforms())
        return Preprocessing(size=(224, 224), interpolation="bilinear", resize_to=256)
    notes.append(f"preprocessing assumed: shorter side {side} bicubic, ImageNet mean and deviation")
    return Preprocessing((side, side), 1.0, "center", "bicubic", IMAGENET_MEAN, IMAGENET_STD, resize_to=side)


def image_size(weights: dict[str, torch.Tensor]) -> int:
    """Side in pixels of the square image a state dict was trained on."""
    grid = math.isqrt(weights["encoder.pos_embedding"].shape[1] - 1)
    return grid * int(weights["conv_proj.weight"].shape[2])


def depth_of(weights: dict[str, torch.Tensor]) -> int:
    """Number of encoder blocks in a state dict."""
    return len({match[0] for key in weights if (match := re.match(r"encoder\.layers\.[^.]+", key))})


def refuse_other_layout(name: str, checkpoint: Checkpoint) -> None:
    """Raises InputError where the state dict isn't torchvision's, or is another variant than the name says."""
    what, weights = f"cannot load {checkpoint.path} into {name}", checkpoint.weights
    if not is_layout(weights):
        why = f"its keys are not torchvision's (the first is {next(iter(weights))})"
        raise InputError(what, why, "Give the timm name of the model instead")
    if "heads.head.weight" not in weights:
        raise InputError(
            what, "the weights have no classifier (heads.head)", "Give those of a fine-tuned model"
        )
    patch = weights["conv_proj.weight"]
    found = {
        "embed dim": int(patch.shape[0]),
        "depth": depth_of(weights),
        "patch size": int(patch.shape[2]),
    }
    wanted = shape_named(name)
    fits = [v for v, (dim, depth, _, side) in SHAPES.items() if [*found.values()] == [dim, depth, side]]
    fix = f"Use {PREFIX}{fits[0]}" if fits else "Name the model these weights were saved from"
    if not wanted:
        raise InputError(what, f"the weights are a torchvision ViT's, and {name} is no plain ViT", fix)
    other = [trait for trait in found if trait in wanted and wanted[trait] != found[trait]]
    if other:
        says = ", ".join(f"{trait} {found[trait]} where it has {wanted[trait]}" for trait in other)
        raise InputError(what, f"the weights are of another model: {says}", fix)


@functools.cache
def shape_named(name: str) -> dict[str, int]:
    """Width, depth, heads and patch size that a name stands for; empty where that is no plain ViT."""
    variant = name.removeprefix(PREFIX)
    if variant in SHAPES:
        return dict(zip(("embed dim", "depth", "heads", "patch size"), SHAPES[variant], strict=True))
    with torch.device("meta"):
        module: Any = timm.create_model(name.partition(".")[0])
    if type(module) is not VisionTransformer:
        return {}
    block: Any = module.blocks[0]
    return {
        "embed dim": module.embed_dim,
        "depth": len(module.blocks),
        "heads": block.attn.num_heads,
        "patch size": module.patch_embed.patch_size[0],
    }


def refuse_size(name: str, size: tuple[int, int] | None, own: tuple[int, int]) -> None:
    """Raises InputError where another size is asked for than the weights were trained at."""
    if size is not None and size != own:
        raise InputError(
            f"cannot load {name} at {size[0]}x{size[1]}",
            f"its weights are for {own[0]}x{own[1]}",
            "Load it at its own size",
        )


def build_original(name: str, path: Path, weights: dict[str, torch.Tensor], heads: int) -> nn.Module:
    """torchvision's own module around the given tensors (shared, not copied)."""
    patch = weights["conv_proj.weight"]
    hidden = weights.get("heads.pre_logits.weight")
    mlp = "encoder.layers.encoder_layer_0.mlp."
    # Names of torchvision before 0.12 come in as well.
    current = {re.sub(r"\.mlp\.linear_([12])\.", modern_mlp, key): value for key, value in weights.items()}
    with torch.device("meta"):
        module = torchvision.models.VisionTransformer(
            image_size=image_size(weights),
            patch_size=int(patch.shape[2]),
            num_layers=depth_of(weights),
            num_heads=heads,
            hidden_dim=int(patch.shape[0]),
            mlp_dim=len(current.get(f"{mlp}0.bias", ())),
            num_classes=int(weights["heads.head.weight"].shape[0]),
            representation_size=None if hidden is None else int(hidden.shape[0]),
            norm_layer=functools.partial(nn.LayerNorm, eps=EPS),
        )
    differences.refuse(name, path, module.state_dict(), current)
    module.load_state_dict(current, strict=True, assign=True)
    return module.eval().requires_grad_(False)  # type: ignore[no-any-return]


def modern_mlp(match: re.Match[str]) -> str:
    """The name of an MLP's Linear since torchvision 0.12: linear_1 is 0, linear_2 is 3."""
    return ".mlp.0." if match[1] == "1" else ".mlp.3."


def build_canonical(weights: dict[str, torch.Tensor], heads: int) -> VisionTransformer:
    """timm's VisionTransformer around the same tensors; both keep q, k and v in one matrix in that order."""
    mapped = {}
    for key, value in weights.items():
        for old, new in RENAMES:
            key = key.replace(old, new)
        mapped[key] = value
    width = int(mapped["patch_embed.proj.weight"].shape[0])
    with torch.device("meta"):
        module = VisionTransformer(
            img_size=image_size(weights),
            patch_size=int(mapped["patch_embed.proj.weight"].shape[2]),
            num_classes=int(mapped["head.weight"].shape[0]),
            embed_dim=width,
            depth=depth_of(weights),
            num_heads=heads,
            # Half a unit more: int(width * ratio) inside timm must not round down.
            mlp_ratio=(int(mapped["blocks.0.mlp.fc1.weight"].shape[0]) + 0.5) / width,
            norm_layer=functools.partial(LayerNorm, eps=EPS),
        )
    module.load_state_dict(mapped, strict=True, assign=True)
    return module.eval().requires_grad_(False)  # type: ignore[no-any-return]
