from __future__ import annotations

import functools
from typing import Any

import pytest
from torch import nn

from edgevit.load.canonical import why_not_canonical

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


def test_surgery_may_add_its_own_parts() -> None:
    class Trimmed(type(tiny().blocks[0])):  # type: ignore[misc]
        pass

    changed = tiny(block_fn=functools.partial(Trimmed))
    assert why_not_canonical(changed) == "blocks.0 is a Trimmed"
    assert why_not_canonical(changed, blocks=(Trimmed,)) is None
