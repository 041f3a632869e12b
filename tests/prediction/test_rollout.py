"""Attention rollout is read where the head reads, from the attention the model itself computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.models.model import finish
from edgevit.prediction.rollout import attention, rollout

from timm.models.deit import VisionTransformerDistilled  # isort: skip
from timm.models.vision_transformer import VisionTransformer  # isort: skip

SIZE = Preprocessing(size=(32, 48), crop_pct=1.0)


def model(kind: type[VisionTransformer] = VisionTransformer, **options: object) -> VisionTransformer:
    """A small ViT with random weights."""
    torch.manual_seed(0)
    made = kind(
        img_size=(32, 48), patch_size=16, embed_dim=24, depth=2, num_heads=3, num_classes=5, **options
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made.eval()


def loaded(made: VisionTransformer) -> object:
    return finish("tiny", made, SIZE, source="test")


def test_attention_is_what_the_model_multiplies_values_by() -> None:
    made = model(qk_norm=True)
    x = torch.randn(2, 7, 24)
    block = made.blocks[0].attn
    weights = attention(block, x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7))
    block.fused_attn = False
    seen: list[torch.Tensor] = []
    block.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block(x)
    torch.testing.assert_close(weights, seen[0].mean(1))


@pytest.mark.parametrize(
    "options",
    [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}],
    ids=["class token", "registers", "average"],
)
def test_rollout_covers_the_patches(options: dict[str, object]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    found = rollout(loaded(model(**options)), pixels)  # type: ignore[arg-type]
    assert found.shape == (2, 2, 3)
    assert (found > 0).all()
    total = found.sum((1, 2))
    if options.get("global_pool") == "avg":
        np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    else:
        assert (total < 1).all()


@pytest.mark.parametrize(("kind", "read"), [(VisionTransformer, 1), (VisionTransformerDistilled, 2)])
def test_rollout_follows_the_one_block_there_is(kind: type[VisionTransformer], read: int) -> None:
    made = model(kind)
    made.blocks = made.blocks[:1]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    ready = loaded(made)
    seen: list[torch.Tensor] = []
    made.blocks[0].attn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    found = rollout(ready, pixels)  # type: ignore[arg-type]
    expected = attention(made.blocks[0].attn, seen[-1])[0, :read, read:].mean(0) / 2
    np.testing.assert_allclose(found.ravel(), expected.detach().numpy(), rtol=1e-5)


def test_a_model_that_is_no_plain_vit_is_refused(tmp_path: Path) -> None:
    other = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    made = finish("other", other, SIZE, source="test")
    with pytest.raises(InputError) as error:
        rollout(made, np.zeros((1, 32, 48, 3), np.uint8))
    assert str(error.value) == (
        "cannot draw the attention of other: it is not a plain ViT. Leave --attention out."
    )
