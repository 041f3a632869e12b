"""Models at another input size, whatever they are: their maps keep their size, what depends on it is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.compression.any_size import at_size, takes
from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.model import LoadedModel, finish
from edgevit.models.outputs import with_requested

import timm  # isort: skip


class Maps(nn.Module):
    """A map at a quarter of the size, a depth at the whole, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 5, 4, stride=4)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.stem(images)
        return {"scores": maps, "depth": images.mean(1).abs() + 1, "vector": maps.mean((2, 3))}


class Tokens(nn.Module):
    """As many tokens as patches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 8, stride=8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.stem(images).flatten(2).transpose(1, 2)


def loaded(module: nn.Module, size: int = 32, kinds: dict[str, str] | None = None) -> LoadedModel:
    return finish("made", module, Preprocessing((size, size)), source="made", kinds=kinds)


@given(st.integers(1, 20).map(lambda units: 4 * units), st.integers(1, 20).map(lambda units: 4 * units))
@settings(max_examples=20, deadline=None)
def test_maps_keep_their_size_at_any_other(height: int, width: int) -> None:
    model = loaded(Maps(), kinds={"scores": "segmentation", "depth": "depth", "vector": "embedding"})
    scores, depth, vector = at_size(model, (height, width))(torch.ones(2, 3, height, width))
    assert (scores.shape, depth.shape, vector.shape) == ((2, 5, 8, 8), (2, 32, 32), (2, 5))
    torch.testing.assert_close(depth, torch.full_like(depth, 2.0))


def test_a_map_shows_the_same_places() -> None:
    model = loaded(Maps(), kinds={"scores": "segmentation", "depth": "depth", "vector": "embedding"})
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32).contiguous()
    small = nn.functional.interpolate(ramp, (16, 16), mode="bilinear", antialias=True)
    whole, smaller = model.module(ramp)[1], at_size(model, (16, 16))(small)[1]
    torch.testing.assert_close(smaller, whole, atol=0.03, rtol=0)


@pytest.mark.parametrize(("name", "size"), [("swin_tiny_patch4_window7_224", 160), ("mobilevit_xxs", 160)])
def test_models_of_timm_are_told_their_size(name: str, size: int) -> None:
    module = timm.create_model(name, num_classes=4)
    model = loaded(module, module.default_cfg["input_size"][-1])
    assert at_size(model, (size, size))(torch.zeros(1, 3, size, size)).shape == (1, 4)
    assert model.preprocessing.size == module.default_cfg["input_size"][-2:]


def test_features_of_a_plain_vit_are_had_at_another_size() -> None:
    module = timm.create_model("vit_tiny_patch16_224", img_size=64)
    model = with_requested(loaded(module, 64), ["features"], False)
    found = at_size(model, (48, 48))(torch.zeros(1, 3, 48, 48))
    assert [tuple(each.shape) for each in found] == [(1, 192, 4, 4)] * 4


def test_tokens_of_another_number_are_refused() -> None:
    model = loaded(Tokens())
    assert takes(model, (32, 32)) and not takes(model, (16, 16))
    with pytest.raises(InputError) as error:
        at_size(model, (16, 16))
    assert str(error.value) == (
        "cannot change the resolution of made to 16x16 px: its output tokens is [4, 4] an image then, "
        "and not [16, 4]. Use another size, or leave --resolution out for this model."
    )


def test_a_model_that_takes_its_own_size_alone_is_refused() -> None:
    model = loaded(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)))
    with pytest.raises(InputError, match="it does not take that"):
        at_size(model, (16, 16))


def test_a_graph_has_one_size() -> None:
    graph: Any = object()
    with pytest.raises(InputError, match="an ONNX graph, which has one size"):
        at_size(replace(loaded(Maps()), graph=graph), (16, 16))
