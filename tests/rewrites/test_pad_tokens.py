"""Padding aligns the token count and is invisible in the outputs."""

from __future__ import annotations

import pytest
import torch

from edgevit.rewrites.attention import softmax_without_kernel
from edgevit.rewrites.pad_tokens import pad_tokens
from edgevit.targets.profiles import Npu
from tests.vits import images, random_vit

ALIGNED = Npu(target="any", transpose_alignment=8)


@pytest.mark.parametrize(
    "options", [{}, {"global_pool": "avg"}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}]
)
@pytest.mark.parametrize("by_norm", [False, True])
def test_padded_tokens_change_nothing(options: dict[str, object], by_norm: bool) -> None:
    model = random_vit(img_size=(48, 32), **options)
    padded = pad_tokens(model, ALIGNED).module
    if by_norm:
        padded = softmax_without_kernel(padded).module
    with torch.no_grad():
        torch.testing.assert_close(padded(images(model)), model(images(model)), rtol=1e-4, atol=1e-4)


def test_every_block_works_on_an_aligned_number_of_tokens() -> None:
    padded = pad_tokens(random_vit(), ALIGNED).module
    counts = []
    for block in padded.blocks:
        block.attn.qkv.register_forward_hook(lambda _m, arguments, _o: counts.append(arguments[0].shape[1]))
    with torch.no_grad():
        padded(images(padded))
    assert counts == [8, 8]


def test_scores_are_shifted_by_the_share_of_a_copy_not_masked() -> None:
    share = pad_tokens(random_vit(), ALIGNED).module.blocks[0].attn.share
    torch.testing.assert_close(share.exp(), torch.tensor([0.25, 1, 1, 1, 1, 0.25, 0.25, 0.25]))


def test_an_aligned_model_is_left_alone() -> None:
    model = random_vit(class_token=False, global_pool="avg", img_size=(64, 32))
    assert pad_tokens(model, ALIGNED) == (model, False, "8 tokens are a multiple of 8 already")
    assert not pad_tokens(model, None).changed
