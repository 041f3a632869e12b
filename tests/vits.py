"""Small ViTs with every parameter drawn at random, so that no fold can hide behind a zero or a one."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from edgevit import torch_setup  # noqa: F401

from timm.models.deit import VisionTransformerDistilled  # isort: skip
from timm.models.vision_transformer import VisionTransformer  # isort: skip


def random_vit(seed: int = 0, kind: type = VisionTransformer, **options: Any) -> Any:
    """A ViT in eval mode whose parameters, biases and LayerNorm affines included, are all random."""
    defaults = {
        "img_size": 32,
        "patch_size": 16,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "num_classes": 7,
    }
    model = kind(**{**defaults, **options}).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            around_one = name.endswith("gamma") or ("norm" in name and name.endswith("weight"))
            parameter.copy_(1.0 + 0.3 * noise if around_one else 0.3 * noise)
    return model


def images(model: Any, count: int = 2, seed: int = 1) -> torch.Tensor:
    """Normalised images of the model's size, [count, C, H, W]."""
    height, width = model.patch_embed.img_size
    return torch.randn(count, model.in_chans, height, width, generator=torch.Generator().manual_seed(seed))


@st.composite
def vits(
    draw: st.DrawFn, pre_norm: tuple[bool, ...] = (False, True), own_norms: tuple[bool, ...] = (False, True)
) -> Any:
    """Any plain ViT: patch and grid of any shape, 1 to 4 channels, every optional part in or out."""
    patch = (draw(st.sampled_from([4, 6, 8, 14, 16])), draw(st.sampled_from([5, 8, 12, 16])))
    grid = (draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    heads = draw(st.integers(1, 3))
    # LayerNorm of fewer than six channels may divide by next to nothing and blow rounding up.
    head_dim = draw(st.sampled_from([3, 4, 8] if heads > 1 else [6, 8]))
    kind = draw(st.sampled_from([VisionTransformer, VisionTransformer, VisionTransformerDistilled]))
    pool = (
        "token"
        if kind is VisionTransformerDistilled
        else draw(st.sampled_from(["token", "avg", "max", "map"]))
    )
    return random_vit(
        seed=draw(st.integers(0, 999)),
        kind=kind,
        img_size=(patch[0] * grid[0], patch[1] * grid[1]),
        patch_size=patch,
        in_chans=draw(st.integers(1, 4)),
        embed_dim=heads * head_dim,
        num_heads=heads,
        depth=draw(st.integers(1, 3)),
        mlp_ratio=2.0,
        global_pool=pool,
        class_token=pool == "token" or draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        scale_attn_norm=draw(st.sampled_from(own_norms)),
        scale_mlp_norm=draw(st.sampled_from(own_norms)),
        proj_bias=draw(st.booleans()),
        init_values=draw(st.sampled_from([None, 0.1])),
        pre_norm=draw(st.sampled_from(pre_norm)),
        reg_tokens=0 if kind is VisionTransformerDistilled else draw(st.integers(0, 2)),
        no_embed_class=kind is VisionTransformer and draw(st.booleans()),
        fc_norm=None if kind is VisionTransformerDistilled else draw(st.sampled_from([None, True, False])),
    )


def same_function(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Outputs [n, classes] of the same weights agree.

    Where these lie in memory decides by which kernel they are read, and so in which order sums are taken:
    float32 then differs by a few units of 6e-8 a layer.
    """
    assert found.shape == expected.shape
    assert float((found - expected).detach().norm()) <= 1e-5 * float(expected.detach().norm())
