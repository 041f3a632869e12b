"""The last block computes what the head reads, and no more."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgevit.rewrites.last_block import trim_last_block
from edgevit.targets.profiles import Npu
from tests.vits import VisionTransformerDistilled, images, random_vit


def tokens_seen(module: Any, inputs: torch.Tensor, name: str) -> int:
    seen = []
    handle = module.get_submodule(name).register_forward_hook(
        lambda _module, arguments, _output: seen.append(arguments[0].shape[1])
    )
    with torch.no_grad():
        module(inputs)
    handle.remove()
    return int(seen[0])


@pytest.mark.parametrize("part", ["blocks.1.attn.proj", "blocks.1.mlp.fc1", "blocks.1.norm2"])
def test_only_the_class_token_passes_the_last_block(part: str) -> None:
    model = random_vit()
    trimmed = trim_last_block(model).module
    assert tokens_seen(model, images(model), part) == 5
    assert tokens_seen(trimmed, images(model), part) == 1
    assert tokens_seen(trimmed, images(model), part.replace("blocks.1", "blocks.0")) == 5


def test_a_distilled_model_keeps_two_tokens() -> None:
    model = random_vit(kind=VisionTransformerDistilled)
    trimmed = trim_last_block(model).module
    assert tokens_seen(trimmed, images(model), "blocks.1.mlp.fc1") == 2


def test_where_transposes_need_aligned_tokens_a_few_more_queries_are_kept() -> None:
    model = random_vit(img_size=64)
    trimmed = trim_last_block(model, Npu(target="any", transpose_alignment=8)).module
    assert tokens_seen(trimmed, images(model), "blocks.1.mlp.fc1") == 8
    assert tokens_seen(trimmed, images(model), "norm") == 1


@pytest.mark.parametrize("pool", ["avg", "max", "map"])
def test_a_head_that_reads_every_token_leaves_the_block_alone(pool: str) -> None:
    model = random_vit(global_pool=pool)
    assert trim_last_block(model) == (model, False, "its head reads every token")
