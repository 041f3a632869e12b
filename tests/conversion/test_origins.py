"""Weights from torchvision and Hugging Face, and models that aren't plain ViTs, convert with their parity shown."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from edgevit import torch_setup  # noqa: F401
from tests.conversion.conftest import Project

import timm  # isort: skip
import torchvision  # isort: skip

FLOAT = ("--target", "onnx", "--precision", "float")


def converted(project: Project, *arguments: str) -> tuple[dict, str]:
    done = project.run("convert", *arguments, *FLOAT, "--out", "run")
    return project.manifest("run"), done.stdout


@pytest.mark.slow
def test_torchvision_state_dict(project: Project) -> None:
    torch.manual_seed(0)
    weights = project.folder / "vit_b_16.pth"
    torch.save(torchvision.models.vit_b_16(weights=None).state_dict(), weights)
    manifest, table = converted(project, "torchvision:vit_b_16", "--weights", str(weights))
    assert manifest["model"]["canonical"]
    assert manifest["model"]["parity"] < 1e-4
    assert "weights mapped to the canonical ViT: largest output difference" in table


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ("ViTConfig", "ViTForImageClassification"),
        ("DeiTConfig", "DeiTForImageClassificationWithTeacher"),  # two heads
    ],
)
def test_hugging_face_directory(project: Project, config: str, model: str) -> None:
    transformers = pytest.importorskip("transformers")
    small = getattr(transformers, config)(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32,
        patch_size=16, num_labels=3,
    )  # fmt: skip
    getattr(transformers, model)(small).save_pretrained(project.folder / "my vit")
    manifest, table = converted(project, "my vit")
    assert manifest["model"]["canonical"]
    assert manifest["model"]["parity"] < 1e-4
    assert "exported graph against torch: largest output difference" in table


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "mobilevit_s"])
def test_other_models_take_the_generic_path_and_say_so(project: Project, name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        project.folder / "w.safetensors",
    )
    manifest, table = converted(project, name, "--weights", "w.safetensors")
    assert not manifest["model"]["canonical"]
    assert "rewrites for plain ViTs are left out" in table.replace("\n", " ")
    export = next(stage for stage in manifest["stages"] if stage["stage"] == "export")
    assert export["metrics"]["max_output_difference"] < 1e-3
