"""Exact rewrites keep the function of any ViT, and prove it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.errors import InputError, ParityError
from edgevit.rewrites.equivalence import EXACT, apply_rewrites, prove
from edgevit.targets.profiles import Npu
from tests.vits import images, random_vit, vits

NPU = Npu(target="any", max_conv_stride=7, transpose_alignment=8)


def outputs(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(inputs)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(model=vits(), names=st.sets(st.sampled_from(sorted(EXACT))))
def test_any_set_of_rewrites_keeps_any_vit_the_same_function(model: Any, names: set[str]) -> None:
    inputs, state = images(model), copy.deepcopy(model.state_dict())
    expected = outputs(model, inputs)
    rewritten, records = apply_rewrites(model, sorted(names), inputs, npu=NPU)
    torch.testing.assert_close(outputs(rewritten, inputs), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs(model, inputs), expected, rtol=0, atol=0)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert [record.name for record in records] == [name for name in EXACT if name in names]


def test_all_rewrites_together_change_what_they_say() -> None:
    model = random_vit(init_values=0.1)
    _, records = apply_rewrites(model, list(EXACT), images(model), npu=NPU)
    assert [(record.name, record.changed, record.what) for record in records] == [
        ("fold-layer-scale", True, "4 LayerScales folded into the layers before them"),
        ("fold-norms", True, "weight and bias of 5 LayerNorms folded into the layers they feed"),
        ("fold-attention-scale", True, "attention scale folded into q in 2 blocks"),
        ("trim-tokens", True, "last block computes the class token only"),
        ("norms-by-exponentials", True, "5 of 5 LayerNorms run as sums of exponentials"),
        ("norms-without-mean", False, "no LayerNorm subtracts a mean"),
    ]
    assert all(0 <= record.max_output_difference < 1e-4 for record in records if record.changed)


def test_rewrites_find_nothing_to_do_a_second_time() -> None:
    model = random_vit(init_values=0.1)
    inputs = images(model)
    once, _ = apply_rewrites(model, list(EXACT), inputs, npu=NPU)
    again, records = apply_rewrites(once, list(EXACT), inputs, npu=NPU)
    assert not any(record.changed for record in records)
    assert again is once


def test_a_module_that_is_not_a_vit_is_refused_by_name() -> None:
    with pytest.raises(InputError) as error:
        apply_rewrites(nn.Linear(3, 3).eval(), ["fold-norms"], torch.zeros(1, 3))
    assert str(error.value) == (
        "cannot apply fold-norms: Linear is not timm's VisionTransformer. "
        "Leave the exact rewrites out for this model; it still exports, quantizes and compiles."
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attn_layer": "diff"}, "blocks.0.attn is a DiffAttention"),
        ({"norm_layer": "rmsnorm"}, "blocks.0.norm1 is a RmsNorm"),
        ({"dynamic_img_size": True}, "it resizes its position embedding at run time (dynamic_img_size)"),
    ],
)
def test_a_vit_with_unknown_parts_is_refused_by_the_part(options: dict[str, Any], reason: str) -> None:
    model = random_vit(**options)
    with pytest.raises(InputError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        apply_rewrites(model, ["trim-tokens"], images(model))


def test_a_vit_in_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match="training mode"):
        apply_rewrites(random_vit().train(), ["fold-norms"], torch.zeros(1, 3, 32, 32))


def test_an_unknown_rewrite_is_named() -> None:
    with pytest.raises(InputError, match="unknown rewrite 'fold-norm'"):
        apply_rewrites(random_vit(), ["fold-norm"], torch.zeros(1, 3, 32, 32))


def test_a_rewrite_that_changes_the_outputs_is_caught_by_name() -> None:
    before, after = random_vit(), random_vit()
    with torch.no_grad():
        after.head.bias[0] += 1.0
    with pytest.raises(ParityError) as error:
        prove("fold-norms", before, after, images(before), 1e-5)
    assert str(error.value).startswith("fold-norms changed the outputs: an output moved by 1, more than ")


def test_outputs_that_are_not_numbers_never_pass() -> None:
    before, after = random_vit(), random_vit()
    with torch.no_grad():
        after.head.bias[0] = float("nan")
    with pytest.raises(ParityError, match="moved by nan"):
        prove("fold-norms", before, after, images(before), 1e-5)


def test_outputs_of_another_shape_never_pass() -> None:
    before, after = random_vit(), random_vit(num_classes=8)
    with pytest.raises(ParityError, match=r"shape \(2, 8\) instead of \(2, 7\)"):
        prove("fold-norms", before, after, images(before), 1e-5)
