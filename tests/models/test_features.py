"""--output features: maps of a timm model's last stages, as its own features_only gives them."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.export import export_onnx
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.model import LoadedModel, finish
from edgevit.models.outputs import with_requested

import timm  # isort: skip

SMALL = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 5, "embed_dim": 32, "num_heads": 2},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 4, "embed_dim": 32, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2,
    },
    "mobilevit_xxs": {},
    "convnext_atto": {},
}  # fmt: skip


def loaded(name: str) -> LoadedModel:
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=4, **SMALL[name]).eval()
    size = SMALL[name].get("img_size", 64)
    return finish(name, module, Preprocessing((size, size)), source="a test")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_maps_are_those_of_timms_features_only(name: str, tmp_path: Path) -> None:
    model = loaded(name)
    found = with_requested(model, ["features"], normalize=False)
    theirs = timm.create_model(name, features_only=True, **SMALL[name]).eval()
    images = torch.randn(1, 3, *model.preprocessing.size)
    maps = found.module(images)
    assert [output.kind for output in found.outputs.each] == ["dense"] * len(maps)
    assert [output.shape for output in found.outputs.each] == [tuple(each.shape[1:]) for each in maps]
    assert sorted(maps[-1].shape) == sorted(theirs(images)[-1].shape)  # Swin's own come channels last
    names = [output.name for output in found.outputs.each]
    path = export_onnx(found.module, model.preprocessing.size, 3, tmp_path / "m.onnx", outputs=names)
    session = onnxruntime.InferenceSession(path)
    for ours, exported in zip(
        maps, session.run(None, {session.get_inputs()[0].name: images.numpy()}), strict=True
    ):
        assert torch.allclose(ours, torch.from_numpy(exported), atol=1e-3)


def test_a_model_that_tells_nothing_of_its_stages_is_one_line() -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16, 2))
    plain = finish("mine", module, Preprocessing((4, 4)), source="a test")
    with pytest.raises(InputError, match="only timm's models tell what they compute on the way"):
        with_requested(plain, ["features"], normalize=False)
