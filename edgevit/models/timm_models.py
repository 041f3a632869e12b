"""A timm model by name, with downloaded weights or a file's, compared strictly."""

from __future__ import annotations

import contextlib
import difflib
import math
import sys
from typing import Any

import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import differences
from edgevit.models.checkpoint import Checkpoint, one_line
from edgevit.models.model import LoadedModel, finish

import timm  # isort: skip
from timm.data.config import resolve_data_config  # isort: skip
from timm.models.deit import VisionTransformerDistilled  # isort: skip
from timm.models.vision_transformer import VisionTransformer  # isort: skip

HUB = ("hf-hub:", "hf_hub:")
DIRECT = {"bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"}


def load(
    name: str,
    checkpoint: Checkpoint | None,
    *,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
) -> LoadedModel:
    """The model `name`; without a checkpoint its pretrained weights are downloaded by timm."""
    refuse_unknown(name)
    if checkpoint is None:
        module, notes = download(name, num_classes, size)
        source = f"timm pretrained {name}"
    else:
        module, notes = fill(name, checkpoint, num_classes, size)
        source = f"timm {name}, weights {checkpoint.path.name}"
    preprocessing = preprocessing_of(module, size)
    return finish(name, module, preprocessing, source=source, num_classes=num_classes, notes=notes)


def is_known(name: str) -> bool:
    """Whether timm has an architecture of this name, whatever the tag."""
    return bool(timm.is_model(name.partition(".")[0]))


def refuse_unknown(name: str) -> None:
    """Raises InputError with the nearest of timm's names."""
    if name.startswith(HUB):
        return
    architecture, _, tag = name.partition(".")
    if not is_known(name):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise InputError(
            f"cannot load {name}",
            "timm has no model of this name",
            f"Did you mean {' or '.join(near)}" if near else "See timm.list_models() for the names",
        )
    if tag and name not in tagged(architecture):
        known = tagged(architecture)
        near = difflib.get_close_matches(name, known, n=1) or known[:1] or [architecture]
        raise InputError(
            f"cannot load {name}", f"{architecture} has no pretrained tag {tag!r}", f"Did you mean {near[0]}"
        )


def tagged(architecture: str) -> list[str]:
    """Names of an architecture's pretrained weights."""
    return list(timm.list_pretrained(f"{architecture}.*"))


def create(name: str, size: tuple[int, int] | None, **options: Any) -> nn.Module:
    """timm.create_model at a size, fixed; a convolutional model takes any size and no img_size."""
    if size is not None:
        with contextlib.suppress(TypeError):
            return fixed_size(name, img_size=size, **options)
    return fixed_size(name, **options)


def fixed_size(name: str, **options: Any) -> nn.Module:
    """timm.create_model, with the position embedding constant where a plain ViT would resize it at run time."""
    module = timm.create_model(name, **options)
    if type(module) is VisionTransformer and module.dynamic_img_size:
        module = timm.create_model(name, dynamic_img_size=False, **options)
    return module  # type: ignore[no-any-return]


def skeleton(name: str, size: tuple[int, int] | None, **options: Any) -> nn.Module:
    """The model to put weights in. A plain ViT's own random weights are never made: it has no other tensors."""
    try:
        with contextlib.suppress(Exception), torch.device("meta"):
            module = create(name, size, **options)
            if type(module) in (VisionTransformer, VisionTransformerDistilled):
                return module
        return create(name, size, **options)
    except Exception as error:
        at = f" at {size[0]}x{size[1]}" if size is not None else ""
        raise InputError(
            f"cannot build {name}{at}", one_line(error), "Choose a size the model can take"
        ) from error


def download(name: str, num_classes: int | None, size: tuple[int, int] | None) -> tuple[nn.Module, list[str]]:
    """The model with timm's pretrained weights. Another class count would give a random head: refused."""
    if not name.startswith(HUB):
        config = timm.get_pretrained_cfg(name)
        if num_classes is not None and config is not None and num_classes != config.num_classes:
            raise InputError(
                f"cannot load {name} with {num_classes} classes",
                f"its pretrained head has {config.num_classes}",
                "Fine-tune it first and pass the result with --weights",
            )
    try:
        reach(hub_files(name))
        module = create(name, size, pretrained=True)
    except Exception as error:
        raise InputError(
            f"cannot download the weights of {name}",
            one_line(error),
            "Pass a weights file with --weights, or check the connection and try again",
        ) from error
    trained = resolve_data_config({}, model=module)["input_size"][1:]  # type: ignore[no-untyped-call]
    notes = []
    if size is not None and tuple(trained) != size and getattr(module, "pos_embed", None) is not None:
        notes.append(f"trained at {trained[0]}x{trained[1]}; timm resampled its position embedding")
    return module, notes


def hub_files(name: str) -> tuple[str, tuple[str, ...]]:
    """Repository on the Hugging Face hub and the files there that hold a model's weights."""
    usual = (
        "model.safetensors",
        "open_clip_model.safetensors",
        "pytorch_model.bin",
        "open_clip_pytorch_model.bin",
    )
    if name.startswith(HUB):
        return name.split(":", 1)[1].partition("@")[0], usual
    config = timm.get_pretrained_cfg(name)
    own = getattr(config, "hf_hub_filename", None)
    return str(getattr(config, "hf_hub_id", None) or ""), (own, *usual) if own else usual


def reach(hub: tuple[str, tuple[str, ...]]) -> None:
    """One request without retries: offline, the hub's own client would retry for most of a minute, aloud.

    Raises whatever the client raises where the hub can't be reached. Weights in the local cache need no hub.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    repository, files = hub
    cached = (
        (huggingface_hub.try_to_load_from_cache(repository, file) for file in files) if repository else ()
    )
    if not repository or any(isinstance(path, str) for path in cached):
        return
    # Any answer will do, a refusal as well: timm then says what is wrong.
    with contextlib.suppress(HfHubHTTPError, OfflineModeIsEnabled):
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, files[0]), timeout=10)


def fill(
    name: str, checkpoint: Checkpoint, num_classes: int | None, size: tuple[int, int] | None
) -> tuple[nn.Module, list[str]]:
    """The model with a file's weights, which must fit exactly but for the head's class count."""
    if name.startswith(HUB):
        why = "a model on the Hugging Face hub brings its own weights"
        raise InputError(f"cannot load {name}", why, "Leave --weights out, or give the model's timm name")
    config = timm.get_pretrained_cfg(name)
    default = config.num_classes if config is not None else 1000
    stored = stored_classes(checkpoint.weights, config.classifier if config is not None else None)
    if num_classes is not None and stored not in (None, num_classes):
        raise InputError(
            f"cannot load {name} with {num_classes} classes",
            f"the head in {checkpoint.path} has {stored}",
            f"Ask for {stored} classes, or give other weights",
        )
    notes = list(checkpoint.notes)
    options = {}
    if stored not in (None, default):
        options["num_classes"] = stored
        notes.append(f"built with {stored} classes, as in the weights file (timm's default is {default})")
    weights = checkpoint.weights
    if (
        stored is None
        and num_classes is None
        and default
        and fits(skeleton(name, size, num_classes=0), weights)
    ):
        options["num_classes"] = 0
        notes.append("the weights file has no classifier: the model gives what one would read")
    module = skeleton(name, size, **options)
    expected = module.state_dict()
    if differences.differ(expected, weights):
        weights = converted(module, weights) or weights
    if size is not None:
        refuse_other_size(name, checkpoint, module, size)
    differences.refuse(name, checkpoint.path, expected, weights, fix=twin(name, expected, weights))
    # Assigned, not copied: the random initial weights are let go one by one.
    module.load_state_dict(weights, strict=True, assign=True)
    return module, notes


def fits(module: nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    """Whether weights are those of a module, under its own names or its authors'."""
    return not differences.differ(module.state_dict(), weights) or converted(module, weights) is not None


def refuse_other_size(name: str, checkpoint: Checkpoint, module: nn.Module, size: tuple[int, int]) -> None:
    """Raises InputError where the position embedding alone doesn't fit the size asked for."""
    expected, given = module.state_dict(), checkpoint.weights
    other = [key for key in expected if key in given and given[key].shape != expected[key].shape]
    if not isinstance(module, VisionTransformer) or other != ["pos_embed"] or given["pos_embed"].ndim != 3:
        return
    tokens = given["pos_embed"].shape[1]
    patches = tokens - (0 if module.no_embed_class else module.num_prefix_tokens)
    side = math.isqrt(max(patches, 0))
    height, width = (side * patch for patch in module.patch_embed.patch_size)
    trained = f"{height}x{width}" if side * side == patches else f"{tokens} tokens"
    raise InputError(
        f"cannot load {checkpoint.path} into {name} at {size[0]}x{size[1]}",
        f"its position embedding is for {trained}",
        "Give the size it was trained at",
    )


def twin(name: str, expected: differences.Weights, given: differences.Weights) -> str | None:
    """The remedy where a DeiT's weights are those of its sibling with or without distillation token."""
    if ("dist_token" in expected) == ("dist_token" in given):
        return None
    architecture = name.partition(".")[0]
    distilled = "dist_token" in given
    other = architecture.replace(
        "_patch" if distilled else "_distilled_", "_distilled_patch" if distilled else "_"
    )
    return f"These are weights of {other}" if other != architecture and timm.is_model(other) else None


def stored_classes(weights: dict[str, torch.Tensor], classifier: Any) -> int | None:
    """Classes of the head in a state dict, None where it has none."""
    names = [classifier] if isinstance(classifier, str) else list(classifier or ())
    for key in [f"{name}.weight" for name in names] + ["head.weight", "head.fc.weight", "fc.weight"]:
        if key in weights and weights[key].ndim in (2, 4):
            return int(weights[key].shape[0])
    return None


def converted(module: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """Weights in the layout of the model's original authors, renamed as timm does for its downloads.

    None where that doesn't make them fit, or resizes any tensor: that would be another model.
    """
    rename = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return None
    try:
        renamed = rename(dict(weights), module)
    except Exception:  # another model's weights: the caller says how they differ
        return None
    resized = any(key in weights and weights[key].shape != value.shape for key, value in renamed.items())
    return None if resized or differences.differ(module.state_dict(), renamed) else dict(renamed)


def preprocessing_of(module: nn.Module, size: tuple[int, int] | None = None) -> Preprocessing:
    """What timm's own evaluation does for this model; `size` (height, width) replaces its input size."""
    config = resolve_data_config({}, model=module)  # type: ignore[no-untyped-call]
    channels, height, width = config["input_size"]
    own = getattr(getattr(module, "patch_embed", None), "img_size", None)
    interpolation = config["interpolation"]
    return Preprocessing(
        size=size or (tuple(own) if isinstance(own, tuple) else (height, width)),
        crop_pct=float(config["crop_pct"]),
        crop_mode=config["crop_mode"],
        interpolation=interpolation if interpolation in DIRECT else "bicubic",
        mean=tuple(config["mean"])[:channels],
        std=tuple(config["std"])[:channels],
        channels="L" if channels == 1 else "RGB",
    )
