"""Patch convolutions become chains of short strides that copy pixels exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.rewrites.patch_embed import best_chain, chains, cycles, split_patch_embed
from edgevit.targets.profiles import Npu
from tests.vits import images, random_vit

NPU = Npu(target="any", max_conv_stride=7)


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    channels=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_every_split_gives_the_same_tokens_with_short_strides(
    kernel: tuple[int, int], channels: int, seed: int
) -> None:
    size = (kernel[0] * 2 + 1, kernel[1] * 3)  # one row more than patches need
    model = random_vit(seed, img_size=size, patch_size=kernel, in_chans=channels, depth=1)
    result = split_patch_embed(model, NPU)
    inputs = images(model)
    with torch.no_grad():
        torch.testing.assert_close(
            result.module.patch_embed(inputs), model.patch_embed(inputs), rtol=1e-4, atol=1e-4
        )
    possible = any(True for _ in chains(kernel, 7))
    assert result.changed == (possible and max(kernel) > 7)
    if result.changed:
        assert_exact_taps(result.module.patch_embed)


def assert_exact_taps(stem: Any) -> None:
    assert all(max(conv.stride) <= 7 for conv in [*stem.taps, stem.proj])
    for conv in stem.taps:
        assert conv.bias is None
        ones = conv.weight == 1
        assert bool((ones | (conv.weight == 0)).all())
        assert bool((ones.flatten(1).sum(1) == 1).all())


def test_trained_weights_are_moved_not_changed() -> None:
    model = random_vit()
    split = split_patch_embed(model, NPU).module.patch_embed
    before, after = model.patch_embed.proj, split.proj
    assert torch.equal(before.weight.flatten(1).sort(1).values, after.weight.flatten(1).sort(1).values)
    assert torch.equal(before.bias, after.bias)


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (7, "stride 7 fits the target's limit of 7"),
        (13, "no 3 strides up to 7 multiply to 13x13"),
        (11, "no 3 strides up to 7 multiply to 11x11"),
    ],
)
def test_a_patch_that_needs_no_chain_or_has_none_is_left_alone(patch: int, reason: str) -> None:
    model = random_vit(patch_size=patch, img_size=patch * 2)
    result = split_patch_embed(model, NPU)
    assert result == (model, False, reason)


def test_an_embedding_that_pads_its_images_is_left_alone() -> None:
    model = random_vit(dynamic_img_pad=True)
    assert split_patch_embed(model, NPU).what == "its patch embedding takes images of any size"


def test_a_target_without_a_stride_limit_keeps_the_convolution() -> None:
    model = random_vit()
    assert split_patch_embed(model, None) == (model, False, "the target has no limit on strides")
    assert not split_patch_embed(model, Npu(target="any")).changed


def square(*strides: int) -> tuple[tuple[int, int], ...]:
    return tuple((stride, stride) for stride in strides)


# Counted by rknn-toolkit2 2.5.0 for int8 on two platforms with 1024 and 512 multiply-accumulates per cycle.
COMPILED = [
    (square(4, 4), 192, 224, 140288, 230400),
    (square(2, 2, 4), 192, 224, 115200, 187378),
    (square(2, 4, 2), 768, 224, 245248, 443673),
    (square(4, 2, 4), 192, 224, 174848, 340126),
    (square(2, 4, 4), 768, 224, 272896, 592668),
    (square(2, 7), 192, 196, 99616, 163306),
    (square(7, 2), 192, 196, 217040, 434080),
    (square(3, 4), 192, 168, 48192, 96384),
    (square(4, 2), 768, 112, 65024, 117504),
]


@pytest.mark.parametrize(("chain", "dim", "side", "large", "small"), COMPILED)
def test_cycles_agree_with_the_compiler(chain: Any, dim: int, side: int, large: int, small: int) -> None:
    blocks = {"token_alignment": 16, "input_channel_alignment": 32}
    big = Npu(
        target="a",
        macs_per_cycle_int8=1024,
        channel_alignment_int8=32,
        ddr_bytes_per_cycle=21.3,
        **blocks,
    )
    little = Npu(
        target="b",
        macs_per_cycle_int8=512,
        channel_alignment_int8=16,
        ddr_bytes_per_cycle=5.9,
        **blocks,
    )
    assert cycles(chain, big, (side, side), 3, dim) == pytest.approx(large, rel=0.03)
    assert cycles(chain, little, (side, side), 3, dim) == pytest.approx(small, rel=0.08)


@pytest.mark.parametrize("kernel", [8, 12, 14, 16, 32])
def test_the_chosen_chain_is_no_dearer_than_any_square_one(kernel: int) -> None:
    image = (kernel * 14, kernel * 14)
    best = best_chain((kernel, kernel), NPU, image, 3, 192)
    assert best is not None
    squares = [
        chain for chain in chains((kernel, kernel), 7) if all(down == across for down, across in chain)
    ]
    assert cycles(best, NPU, image, 3, 192) <= min(cycles(chain, NPU, image, 3, 192) for chain in squares)
