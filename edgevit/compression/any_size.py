"""Another input size for any model that takes it: its maps keep the size that they had. Lossy, so measured."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.models.checkpoint import one_line
from edgevit.models.model import LoadedModel
from edgevit.models.outputs import parts_of
from edgevit.outputs.output import Output

Size = tuple[int, int]
STEP = (32, 32)  # pixels between sizes that are tried of themselves: what most models' strides divide


class AtSize(nn.Module):
    """A module for images of another size, its maps scaled bilinearly to `outputs`, those of its own size."""

    def __init__(self, module: nn.Module, outputs: tuple[Output, ...]) -> None:
        super().__init__()
        self.module, self.outputs = module, outputs

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        scaled = tuple(
            scaled_to(part, output.shape) if output.means.is_map else part
            for part, output in zip(parts_of(self.module(images)), self.outputs, strict=True)
        )
        return scaled[0] if len(scaled) == 1 else scaled


def scaled_to(maps: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Maps [n, (channels,) rows, columns] with the rows and columns of `shape`, which has no n."""
    if maps.shape[1:] == shape:
        return maps
    planes = maps if maps.ndim == 4 else maps[:, None]
    scaled = functional.interpolate(planes, size=shape[-2:], mode="bilinear", align_corners=False)
    return scaled if maps.ndim == 4 else scaled[:, 0]


def at_size(loaded: LoadedModel, size: Size) -> nn.Module:
    """A copy of a model that takes images of `size` (height, width) and gives outputs of the same shapes.

    A model of timm's is told its size, any other is run at it. Raises InputError for a model that doesn't take it,
    or whose outputs, maps aside, are then others.
    """
    what = f"cannot change the resolution of {loaded.name} to {size[0]}x{size[1]} px"
    if loaded.graph is not None:
        fix = "Export the graph at the size that is wanted"
        raise InputError(what, "it is an ONNX graph, which has one size", fix)
    fix = "Use another size, or leave --resolution out for this model"
    module = copy.deepcopy(loaded.module)
    try:
        for part in module.modules():
            if callable(tell := getattr(part, "set_input_size", None)):
                tell(img_size=size)
                break
        changed = AtSize(module, loaded.outputs.each).eval().requires_grad_(False)
        with torch.inference_mode():
            given = changed(torch.zeros(1, len(loaded.preprocessing.mean), *size))
    except Exception as error:  # of the model's own code
        raise InputError(what, f"it does not take that: {one_line(error)}", fix) from error
    for output, value in zip(changed.outputs, parts_of(given), strict=True):
        if value.shape[1:] != output.shape:
            found, own = (", ".join(map(str, shape)) for shape in (value.shape[1:], output.shape))
            why = f"its output {output.name} is [{found}] an image then, and not [{own}]"
            raise InputError(what, why, fix)
    return changed


def takes(loaded: LoadedModel, size: Size) -> bool:
    """Whether a model can be had at a size."""
    try:
        at_size(loaded, size)
    except InputError:
        return False
    return True
