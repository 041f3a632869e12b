"""Another input size: what is resampled, what is kept, what is refused, what is advised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgevit.compression.resolution import (
    change_resolution,
    check_alignment,
    choose_crop,
    predict,
    ratio,
    resized_preprocessing,
)
from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.rewrites.equivalence import apply_rewrites
from tests.vits import images, random_vit

from timm.models.deit import VisionTransformerDistilled  # isort: skip


def test_the_same_size_is_the_same_model() -> None:
    model = random_vit()
    same = change_resolution(model, (32, 32))
    inputs = images(model)
    torch.testing.assert_close(same(inputs), model(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}])
@pytest.mark.parametrize("size", [(48, 32), (64, 64), (96, 80)])
def test_prefix_positions_are_kept_and_the_grid_changes(size: tuple[int, int], options: dict) -> None:
    model = random_vit(img_size=(80, 64), **options)
    before = model.pos_embed.detach().clone()
    smaller = change_resolution(model, size)
    prefix = model.num_prefix_tokens
    assert smaller.pos_embed.shape[1] == prefix + (size[0] // 16) * (size[1] // 16)
    torch.testing.assert_close(smaller.pos_embed[:, :prefix], before[:, :prefix], rtol=0, atol=0)
    assert torch.isfinite(smaller(images(smaller))).all()
    torch.testing.assert_close(model.pos_embed, before, rtol=0, atol=0)


def test_positions_that_vary_along_one_axis_only_still_do() -> None:
    model = random_vit(img_size=(64, 96))
    with torch.no_grad():
        rows = torch.arange(4.0)[:, None].expand(4, 6).reshape(1, 24, 1)
        model.pos_embed[:, 1:] = rows.expand(1, 24, 24)
    grid = change_resolution(model, (96, 48)).pos_embed[0, 1:, 0].reshape(6, 3)
    torch.testing.assert_close(grid, grid[:, :1].expand(6, 3))
    assert (grid[1:, 0] > grid[:-1, 0]).all()


def test_a_distilled_model_keeps_both_tokens() -> None:
    model = random_vit(kind=VisionTransformerDistilled)
    assert change_resolution(model, (48, 48)).pos_embed.shape[1] == 2 + 9


def test_a_model_without_positions_changes_size_too() -> None:
    model = random_vit(pos_embed="none")
    assert change_resolution(model, (48, 48))(torch.zeros(1, 3, 48, 48)).shape == (1, 7)


def test_a_resized_model_takes_all_exact_rewrites() -> None:
    model = change_resolution(random_vit(), (48, 64))
    _, records = apply_rewrites(model, ["fold-norms", "trim-tokens"], images(model))
    assert all(record.changed for record in records)


@pytest.mark.parametrize(
    ("size", "line"),
    [
        (
            (190, 190),
            "cannot change the resolution to 190 px: 190 is not a multiple of patch size 16. Use 176 or 192.",
        ),
        (
            (192, 200),
            "cannot change the resolution to 192x200 px: "
            "200 is not a multiple of patch width 16. Use width 192 or 208.",
        ),
        ((8, 8), "cannot change the resolution to 8 px: 8 is not a multiple of patch size 16. Use 16."),
    ],
)
def test_sizes_the_patch_does_not_divide_are_refused(size: tuple[int, int], line: str) -> None:
    with pytest.raises(InputError) as error:
        change_resolution(random_vit(), size)
    assert str(error.value) == line


def test_preprocessing_keeps_its_crop_ratio() -> None:
    assert resized_preprocessing(Preprocessing((224, 224), crop_pct=0.9), (192, 192)) == Preprocessing(
        (192, 192), crop_pct=0.9
    )
    stated = resized_preprocessing(Preprocessing((224, 224), resize_to=248), (192, 192))
    assert (stated.size, stated.resize_to) == ((192, 192), 213)


def test_a_crop_never_exceeds_the_picture() -> None:
    assert ratio(resized_preprocessing(Preprocessing((32, 32), crop_pct=0.95), (48, 48), 1.2)) == 1.0
    wide = resized_preprocessing(Preprocessing((224, 224), resize_to=224), (192, 256))
    assert wide.resize_to == 256


def test_the_crop_that_agrees_with_the_full_model_is_chosen() -> None:
    model = change_resolution(random_vit(img_size=64), (32, 32))
    generator = np.random.default_rng(0)
    pictures = {
        round(option, 3): generator.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
        for option in (0.9, 0.774, 0.837, 0.945)
    }
    own = Preprocessing((64, 64), crop_pct=0.9)
    reference = predict(model, resized_preprocessing(own, (32, 32)), pictures[0.945]).numpy()
    choice = choose_crop(model, (32, 32), own, reference, lambda option: pictures[round(option.crop_pct, 3)])
    assert round(choice.preprocessing.crop_pct, 3) == 0.945
    assert choice.preprocessing.size == (32, 32)
    assert [round(tried[0], 3) for tried in choice.tried] == list(pictures)
    assert choice.tried[3][2] == 1.0
    assert choice.what == (
        "crop ratio 0.945, of 4 by KL divergence to the full-resolution model on 24 images "
        "(the model's own unless another is better by a standard error)"
    )


def test_equal_crops_leave_the_models_own() -> None:
    model = random_vit()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    own = Preprocessing((32, 32), crop_pct=0.9)
    reference = predict(model, own, pixels).numpy()
    assert choose_crop(model, (32, 32), own, reference, lambda _: pixels).preprocessing == own


def test_alignment_names_the_neighbours_that_pay() -> None:
    found = check_alignment((192, 192), (16, 16), 1, token_alignment=16)
    assert (found.tokens, found.computed) == (145, 160)
    assert found.advice == (
        "176x208 computes 144 tokens instead of 160 and loses few pixels",
        "192x208 costs the same 160 tokens and sees more pixels",
    )


def test_alignment_says_when_transposes_leave_the_npu() -> None:
    found = check_alignment((160, 160), (16, 16), 1, transpose_alignment=8)
    assert found.advice == ("101 tokens are not a multiple of 8: transposes leave the NPU",)
    assert check_alignment((224, 224), (16, 16), 0, token_alignment=4).advice == ()
