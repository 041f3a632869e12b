"""Exported graphs compute what torch computes, in one input and one output, with the same bytes every time."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError, ParityError
from edgevit.export import export_onnx, export_program, parity
from edgevit.export.parity import run_onnx
from edgevit.files import sha256_file
from edgevit.images.preprocessing import Preprocessing

from edgevit import torch_setup  # noqa: F401  # isort: skip
from timm.models.vision_transformer import VisionTransformer  # isort: skip

PREPROCESSING = Preprocessing(size=(32, 48))


def tiny(**options: object) -> nn.Module:
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=(32, 48), patch_size=16, embed_dim=48, depth=2, num_heads=3, num_classes=7, **options
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def pixels(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 32, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "options", [{}, {"global_pool": "avg"}, {"qk_norm": True, "init_values": 0.1, "reg_tokens": 2}]
)
@pytest.mark.parametrize("kind", ["onnx", "program"])
def test_export_computes_what_torch_computes(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    model = tiny(**options)
    if kind == "onnx":
        path = export_onnx(model, (32, 48), 3, tmp_path / "model.onnx")
    else:
        path = export_program(model, (32, 48), 3, tmp_path / "model.pt2")
    assert parity(path, model, pixels(), PREPROCESSING) < 1e-4


def test_onnx_has_one_named_input_and_output_and_whole_layer_norms(tmp_path: Path) -> None:
    graph = onnx.load(export_onnx(tiny(), (32, 48), 3, tmp_path / "model.onnx")).graph
    assert [value.name for value in graph.input] == ["input"]
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 32, 48]
    assert [value.name for value in graph.output] == ["logits"]
    assert [node.op_type for node in graph.node].count("LayerNormalization") == 5


def test_linear_layers_over_tokens_need_no_reshape(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Flatten(2), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    graph = onnx.load(export_onnx(layers, (6, 8), 3, tmp_path / "model.onnx")).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds == ["Reshape", "MatMul", "Add", "Relu", "MatMul", "Add"]


def test_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        sha256_file(export_onnx(tiny(), (32, 48), 3, tmp_path / name / "model.onnx")) for name in ("a", "b")
    )
    assert first == second


def test_export_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = tiny()
    fused = [block.attn.fused_attn for block in model.blocks]
    export_onnx(model, (32, 48), 3, tmp_path / "model.onnx")
    assert [block.attn.fused_attn for block in model.blocks] == fused


def test_wrong_graph_is_caught(tmp_path: Path) -> None:
    model = tiny()
    path = export_onnx(model, (32, 48), 3, tmp_path / "model.onnx")
    nn.init.constant_(model.head.bias, 1.0)
    with pytest.raises(ParityError, match=r"the exported \.onnx does not compute what the model computes"):
        parity(path, model, pixels(), PREPROCESSING)


class Untraceable(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(image[0, 0, :32, :32]).real[None]


def test_what_only_the_newer_exporter_knows_goes_through_it_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Shuffled(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return nn.functional.channel_shuffle(image, 3).diff().flatten(1)

    path = export_onnx(Shuffled(), (32, 48), 3, tmp_path / "model.onnx")
    assert parity(path, Shuffled(), pixels(), PREPROCESSING) < 1e-4
    said = capfd.readouterr()
    assert len((said.out + said.err).splitlines()) < 5  # and not the whole graph, as the exporter would


def test_a_trace_that_computes_something_else_is_not_taken(tmp_path: Path) -> None:
    class Sly(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            means = image.mean((2, 3))
            return means * 2 if torch.jit.is_tracing() else means

    path = export_onnx(Sly(), (32, 48), 3, tmp_path / "model.onnx")
    assert parity(path, Sly(), pixels(), PREPROCESSING) < 1e-4


def test_a_network_that_multiplies_every_rounding_is_no_wrong_graph(tmp_path: Path) -> None:
    class Chaotic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(32 * 48 * 3, 9)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            means: torch.Tensor = self.layer(image.flatten(1)).sigmoid()
            for _ in range(24):  # the logistic map doubles an error at each step
                means = 4 * means * (1 - means)
            return means

    path = export_onnx(Chaotic(), (32, 48), 3, tmp_path / "model.onnx")
    assert parity(path, Chaotic(), pixels(9), PREPROCESSING) > 1e-3


def test_a_runtime_that_rounds_much_is_no_wrong_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    path = export_onnx(model, (32, 48), 3, tmp_path / "model.onnx")
    coarse = run_onnx(path, PREPROCESSING.normalise(pixels())).astype(np.float16).astype(np.float32)
    monkeypatch.setattr(import_module("edgevit.export.parity"), "run_onnx", lambda *_: coarse)
    assert parity(path, model, pixels(), PREPROCESSING) < 1e-4


def test_what_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EdgevitError, match="cannot export the model to ONNX: "):
        export_onnx(Untraceable().eval(), (32, 32), 3, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


class Likeliest(nn.Module):
    """The places of an image with the highest scores, and the scores; `up`: in which order."""

    def __init__(self, *, up: bool, ranks: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.up, self.ranks = nn.Conv2d(3, 5, 8, 8), up, ranks

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.layer(images).flatten(2).transpose(1, 2)
        places = tokens[..., 0].topk(4).indices if self.ranks else torch.arange(4).expand(len(images), 4)
        found = tokens.gather(1, (places.flip(1) if self.up else places)[..., None].expand(-1, -1, 5))
        return found, found[..., :1]


def test_places_by_rank_may_come_in_another_order(tmp_path: Path) -> None:
    """Two that score nearly the same change places by a rounding; others don't."""
    names = ("tokens", "scores")
    path = export_onnx(Likeliest(up=True), (32, 48), 3, tmp_path / "up.onnx", outputs=names)
    assert parity(path, Likeliest(up=False), pixels(), PREPROCESSING) < 1e-4
    plain = export_onnx(Likeliest(up=True, ranks=False), (32, 48), 3, tmp_path / "plain.onnx", outputs=names)
    with pytest.raises(ParityError, match="an output moved by"):
        parity(plain, Likeliest(up=False, ranks=False), pixels(), PREPROCESSING)
