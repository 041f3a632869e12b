from __future__ import annotations

import functools
from typing import Any

import pytest
from torch import nn

from edgevit.models.canonical import why_not_canonical

from timm.layers.activations import GELUTanh, QuickGELU  # isort: skip
from timm.models.vision_transformer import ResPostBlock, VisionTransformer  # isort: skip


def tiny(**options: Any) -> Any:
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 4}
    return VisionTransformer(**(shape | options)).eval()


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 2}, {"global_pool": "avg"}, {"init_values": 0.1}, {"qk_norm": True}]
)
def test_plain_vits_are_canonical(options: dict[str, Any]) -> None:
    assert why_not_canonical(tiny(**options)) is None


def test_the_part_that_is_not_understood_is_named() -> None:
    assert why_not_canonical(nn.Linear(2, 2)) == "Linear is not timm's VisionTransformer"
    assert why_not_canonical(tiny().train()) == "it is in training mode, where dropout is random"
    assert why_not_canonical(tiny(block_fn=ResPostBlock)) == "blocks.0 is a ResPostBlock"
    assert why_not_canonical(tiny(dynamic_img_size=True)) == (
        "it resizes its position embedding at run time (dynamic_img_size)"
    )
    changed = tiny()
    changed.blocks[1].norm2 = nn.Identity()
    assert why_not_canonical(changed) == "blocks.1.norm2 is a Identity"


def test_rewrite_may_add_its_own_parts() -> None:
    class Trimmed(type(tiny().blocks[0])):  # type: ignore[misc]
        pass

    changed = tiny(block_fn=functools.partial(Trimmed))
    assert why_not_canonical(changed) == "blocks.0 is a Trimmed"
    assert why_not_canonical(changed, blocks=(Trimmed,)) is None


def change(path: str, part: Any) -> Any:
    """A tiny ViT with one part replaced."""
    model = tiny()
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, part)
    return model


@pytest.mark.parametrize(
    ("path", "part", "problem"),
    [
        ("norm", nn.BatchNorm1d(17), "norm is a BatchNorm1d"),
        ("head", nn.Sequential(nn.Linear(24, 4)), "head is a Sequential"),
        ("patch_embed.norm", nn.ReLU(), "patch_embed.norm is a ReLU"),
        ("blocks.1.attn.proj", nn.Identity(), "blocks.1.attn.proj is a Identity"),
        ("blocks.0.mlp.act", nn.Softmax(-1), "blocks.0.mlp.act is a Softmax"),
        ("blocks.0.ls2", nn.ReLU(), "blocks.0.ls2 is a ReLU"),
    ],
)
def test_a_replaced_part_is_named(path: str, part: nn.Module, problem: str) -> None:
    assert why_not_canonical(change(path, part.eval())) == problem


@pytest.mark.parametrize("act", [nn.GELU, nn.ReLU, nn.SiLU, QuickGELU, GELUTanh])
def test_elementwise_activations_are_canonical(act: type[nn.Module]) -> None:
    assert why_not_canonical(tiny(act_layer=act)) is None


@pytest.mark.parametrize("pool", ["map", "max", "avgmax"])
def test_every_pooling_of_timms_is_canonical(pool: str) -> None:
    assert why_not_canonical(tiny(global_pool=pool, class_token=pool != "map")) is None


def test_an_unknown_pooling_is_not() -> None:
    model = tiny()
    model.global_pool = "median"
    assert why_not_canonical(model) == (
        "its head pools by 'median', not by token or avg or max or avgmax or map"
    )


def test_hooks_and_methods_of_an_instance_are_found() -> None:
    hooked = tiny()
    hooked.blocks[1].register_forward_hook(lambda module, args, output: output * 2)
    assert why_not_canonical(hooked) == "blocks.1 has a forward hook"
    hooked = tiny()
    hooked.register_forward_pre_hook(lambda module, args: None)
    assert why_not_canonical(hooked) == "it has a forward hook"
    replaced = tiny()
    replaced.forward = lambda x: x.mean((2, 3))
    assert why_not_canonical(replaced) == "it has a forward of its own"
    replaced = tiny()
    replaced.blocks[0].attn.forward = lambda x: x
    assert why_not_canonical(replaced) == "blocks.0.attn has a forward of its own"
    replaced = tiny()
    replaced.pool = lambda x: x[:, 1]
    assert why_not_canonical(replaced) == "it has a pool of its own"
