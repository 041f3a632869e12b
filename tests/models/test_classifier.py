"""The layer that gives a model's outputs, found by what it computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.classifier import Trunk, classifier_of, with_classes

import timm  # isort: skip

SIZE = Preprocessing((32, 32))
MODELS = {
    "vit_tiny_patch16_224": ("head", {"img_size": 32}),
    "convnext_atto": ("head.fc", {}),
    "mobilevit_xxs": ("head.fc", {}),
    "repvit_m0_9": (None, {}),  # two heads, averaged
}


@pytest.mark.parametrize("name", list(MODELS))
def test_the_classifier_is_found_whatever_it_is_called(name: str) -> None:
    path, options = MODELS[name]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **options).eval()
    if path is None:
        with pytest.raises(InputError, match="its output is not that of one linear layer"):
            classifier_of(name, model, SIZE)
        return
    assert classifier_of(name, model, SIZE) == path
    changed = with_classes(model, path, 3)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(changed(images), torch.zeros(2, 3))
        read = Trunk(model, path)(images)
        torch.testing.assert_close(model.get_submodule(path)(read), model(images))
    assert isinstance(model.get_submodule(path), nn.Linear)
    assert model.get_submodule(path).out_features == 5  # the module given is untouched
