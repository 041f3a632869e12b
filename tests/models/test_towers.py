"""Models without a classifier, of every sort that people bring: they give what their own library gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgevit.errors import InputError
from edgevit.images.pixels import cropped, resized
from edgevit.images.preprocessing import Preprocessing
from edgevit.models import load_model
from edgevit.models.model import finish
from edgevit.models.outputs import rows_of, with_requested
from tests.towers import TOWERS, written
from tests.vits import random_vit

SMALL = Preprocessing((32, 32))


def photographs(preprocessing: Preprocessing) -> torch.Tensor:
    """Two photographs as a model takes them."""
    samples = pytest.importorskip("sklearn.datasets")
    images = []
    for name in ("china.jpg", "flower.jpg"):
        image = Image.fromarray(samples.load_sample_image(name))
        images.append(np.asarray(cropped(resized(image, preprocessing), preprocessing)))
    return torch.from_numpy(preprocessing.normalise(np.stack(images)))


@pytest.mark.parametrize("name", list(TOWERS))
def test_a_folder_gives_what_its_own_library_gives(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    original, tower = written(tmp_path, name), TOWERS[name]
    loaded = load_model(str(tmp_path))
    assert [(each.name, each.kind) for each in loaded.outputs.each] == [
        (output, kind) for output, (kind, _) in tower.gives.items()
    ]
    images = photographs(loaded.preprocessing)
    with torch.inference_mode():
        found = original(pixel_values=images)
        wanted = [had(found) for _, had in tower.gives.values()]
        torch.testing.assert_close(rows_of(loaded.module(images)), rows_of(wanted), atol=1e-4, rtol=1e-4)
    assert not any(part.training for part in loaded.module.modules())
    assert loaded.num_classes is None and loaded.preprocessing.mean == (0.5, 0.5, 0.5)


def test_a_whole_clip_gives_its_image_side(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vision = TOWERS["CLIPVisionModelWithProjection"].values
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert loaded.outputs.first.shape == (24,) and "CLIPVisionModelWithProjection" in loaded.source
    images = torch.randn(2, 3, *loaded.preprocessing.size)
    with torch.inference_mode():
        wanted = model.visual_projection(model.vision_model(pixel_values=images).pooler_output)
        torch.testing.assert_close(loaded.module(images), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["ViTModel", "DeiTModel"])
def test_plain_vits_without_a_classifier_take_every_rewrite(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    written(tmp_path, name)
    loaded = load_model(str(tmp_path))
    assert loaded.canonical and loaded.parity is not None and loaded.parity < 1e-4


def model_of(module: nn.Module) -> Any:
    return finish("net", module, SMALL, source="test")


class Two(nn.Module):
    """What it gives for images depends on `how`."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 8, 8)
        self.how = how

    def forward(self, images: torch.Tensor) -> Any:
        found = self.layer(images)
        return self.how(found.mean((2, 3)), found)


@dataclass
class Answer:
    score: torch.Tensor
    features: torch.Tensor
    loss: None = None


@pytest.mark.parametrize(
    ("how", "names"),
    [
        (lambda a, b: (a, b), ["output_0", "output_1"]),
        (lambda a, b: [a, [b]], ["output_0", "output_1_0"]),
        (lambda a, b: {"score": a, "features": b, "step": 3, "none": None}, ["score", "features"]),
        (lambda a, b: Answer(a, b), ["score", "features"]),
    ],
)
def test_answers_of_every_shape_become_named_outputs(how: Any, names: list[str]) -> None:
    loaded = model_of(Two(how))
    assert [each.name for each in loaded.outputs.each] == names
    assert [each.kind for each in loaded.outputs.each] == ["logits", "dense"]
    assert rows_of(loaded.module(torch.zeros(2, 3, 32, 32))).shape == (2, 4 + 4 * 16)
    assert loaded.num_classes == 4


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        (lambda a, b: a, "logits"),
        (lambda a, b: nn.functional.normalize(a, dim=-1), "embedding"),
        (lambda a, b: b, "dense"),
        (lambda a, b: b[:, :1], "depth"),
        (lambda a, b: b.flatten(2).transpose(1, 2)[..., :3], "tokens"),
        (lambda a, b: b.flatten(2).transpose(1, 2).sigmoid(), "boxes"),
        (lambda a, b: b[:, None], "tensor"),
    ],
)
def test_the_kind_is_told_by_shape_and_values(how: Any, kind: str) -> None:
    assert model_of(Two(how)).outputs.first.kind == kind


def test_a_headless_timm_model_gives_an_embedding() -> None:
    loaded = model_of(random_vit(num_classes=0))
    assert loaded.outputs.first.kind == "embedding" and loaded.canonical


def test_weights_without_a_classifier_load_as_an_embedding(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    module = timm.create_model("test_vit", num_classes=0)
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    loaded = load_model("test_vit", tmp_path / "weights.safetensors")
    assert loaded.outputs.first.kind == "embedding" and "no classifier" in " ".join(loaded.notes)


def test_a_classifiers_embedding_is_what_its_last_layer_reads() -> None:
    vit = random_vit(num_classes=7)
    loaded = model_of(vit)
    found = with_requested(loaded, ["embedding"], normalize=False)
    assert found.outputs.first.shape == (vit.embed_dim,) and found.canonical and found.num_classes is None
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(vit.head(found.module(images)), vit(images))
    unit = with_requested(loaded, ["embedding"], normalize=True)
    with torch.inference_mode():
        torch.testing.assert_close(unit.module(images).norm(dim=1), torch.ones(2))
    assert loaded.outputs.first.kind == "logits"  # the model given is as it was


def test_an_output_whose_kind_is_said_stays_as_it_is() -> None:
    """A projection at the end of an embedding network is no classifier."""
    vit = random_vit(num_classes=7)
    loaded = model_of(vit)
    kept = with_requested(loaded, ["logits:embedding"], normalize=False)
    assert kept.outputs.first.kind == "embedding" and kept.outputs.first.shape == (7,) and not kept.notes
    taken = with_requested(loaded, ["embedding"], normalize=False)
    assert "the embedding is what head reads; for what it gives, say --output logits:embedding" in taken.notes


def test_an_embedding_of_what_no_linear_layer_gives_is_the_output() -> None:
    found = with_requested(model_of(Two(lambda a, b: a)), ["embedding"], normalize=True)
    assert found.outputs.first.kind == "embedding" and found.outputs.first.shape == (4,)


def test_outputs_are_chosen_and_renamed_in_kind() -> None:
    loaded = model_of(Two(lambda a, b: {"score": a, "features": b}))
    only = with_requested(loaded, ["features:segmentation"], normalize=False)
    assert [(each.name, each.kind) for each in only.outputs.each] == [("features", "segmentation")]
    assert only.module(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 4, 4)
    turned = with_requested(loaded, ["features", "score:embedding"], normalize=False)
    assert [each.kind for each in turned.outputs.each] == ["dense", "embedding"]
    first, second = turned.module(torch.zeros(1, 3, 32, 32))
    assert first.ndim == 4 and second.shape == (1, 4)


@pytest.mark.parametrize(
    ("wanted", "normalize", "message"),
    [
        (["depth_map"], False, "the model has no output depth_map. It has score, features"),
        (["score:colour"], False, "there is no kind colour. Choose from logits, embedding"),
        (["score:dense"], False, r"it is \[n, 4\], and dense are features"),
        (["features:boxes"], False, r"cannot take features of net for boxes: it is \[n, 4, 4, 4\]"),
        (["score", "score"], False, "score is named twice"),
        ([], True, "net gives logits, dense, not one embedding"),
    ],
)
def test_a_wrong_output_is_one_line(wanted: list[str], normalize: bool, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        with_requested(model_of(Two(lambda a, b: {"score": a, "features": b})), wanted, normalize)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda a, b: "words", "it gives str, with no tensor of numbers in it"),
        (lambda a, b: {"n": 3}, "it gives dict, with no tensor of numbers in it"),
        (lambda a, b: a.mean(), r"its output output has shape \[\] for one image"),
        (lambda a, b: {"all": b.flatten(0, 1)}, r"its output all has shape \[4, 4, 4\] for one image"),
        (lambda a, b: a / 0 * 0, "its logits for a blank image are not finite"),
        (lambda a, b: (a, b / 0), "its output output_1 for a blank image are not finite"),
    ],
)
def test_what_can_be_no_output_is_one_line(how: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_of(Two(how))


def test_one_score_tells_no_classes_apart() -> None:
    """An age, or one class's mask: told as numbers, where class scores would always agree."""
    loaded = model_of(Two(lambda a, b: {"age": a[:, :1], "mask": b[:, :1]}))
    assert [each.kind for each in loaded.outputs.each] == ["tensor", "depth"]
    assert loaded.num_classes is None
    known = finish("net", Two(lambda a, b: a[:, :1]), SMALL, source="test", kinds={"output": "logits"})
    assert known.outputs.first.kind == "tensor"
    with pytest.raises(InputError, match="it gives one score, and one alone tells no classes apart"):
        with_requested(loaded, ["age:logits"], False)


def test_one_number_an_image_may_have_no_axis_of_its_own() -> None:
    loaded = model_of(Two(lambda a, b: a[:, 0]))
    assert [(each.kind, each.shape) for each in loaded.outputs.each] == [("tensor", (1,))]
    assert loaded.module(torch.zeros(2, 3, 32, 32)).shape == (2, 1)
    with pytest.raises(InputError, match=r"shape \[4, 1\] for one image"):
        model_of(Two(lambda a, b: a[0]))
