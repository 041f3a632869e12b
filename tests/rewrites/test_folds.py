"""Scales and shifts end up in the linear layers; LayerNorms stay LayerNorms."""

from __future__ import annotations

import torch
from torch import nn

from edgevit.rewrites.folds import fold_attention_scale, fold_layer_scale, fold_norms
from edgevit.rewrites.modules import SurgeryAttention
from tests.vits import images, random_vit


def test_every_foldable_norm_becomes_a_layer_norm_with_identity_affine() -> None:
    folded = fold_norms(random_vit(scale_attn_norm=True, scale_mlp_norm=True)).module
    norms = [module for module in folded.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 9
    for norm in norms:
        assert bool((norm.weight == 1).all())
        assert bool((norm.bias == 0).all())


def test_a_norm_on_the_residual_stream_keeps_its_affine() -> None:
    model = random_vit(pre_norm=True)
    folded = fold_norms(model).module
    assert torch.equal(folded.norm_pre.weight, model.norm_pre.weight)


def test_a_norm_before_a_maximum_keeps_its_affine() -> None:
    model = random_vit(global_pool="max", fc_norm=False)
    folded = fold_norms(model).module
    assert torch.equal(folded.norm.weight, model.norm.weight)


def test_a_norm_before_an_average_is_folded_into_the_head() -> None:
    model = random_vit(global_pool="avg", fc_norm=False)
    folded = fold_norms(model).module
    assert bool((folded.norm.weight == 1).all())
    with torch.no_grad():
        torch.testing.assert_close(folded(images(model)), model(images(model)), rtol=1e-4, atol=1e-4)


def test_qkv_without_bias_gets_the_one_the_norm_needs() -> None:
    model = random_vit(qkv_bias=False)
    folded = fold_norms(model).module
    assert model.blocks[0].attn.qkv.bias is None
    expected = model.blocks[0].attn.qkv.weight @ model.blocks[0].norm1.bias
    torch.testing.assert_close(folded.blocks[0].attn.qkv.bias, expected)


def test_scale_goes_into_q_rows_only() -> None:
    model = random_vit()
    folded = fold_attention_scale(model).module.blocks[0].attn
    original, dim = model.blocks[0].attn, 24
    assert isinstance(folded, SurgeryAttention)
    assert folded.scale == 1.0
    torch.testing.assert_close(folded.qkv.weight[:dim], original.qkv.weight[:dim] * 8**-0.5)
    torch.testing.assert_close(folded.qkv.bias[:dim], original.qkv.bias[:dim] * 8**-0.5)
    assert torch.equal(folded.qkv.weight[dim:], original.qkv.weight[dim:])


def test_scale_goes_into_the_norm_of_q_where_there_is_one() -> None:
    model = random_vit(qk_norm=True)
    folded, original = fold_attention_scale(model).module.blocks[0].attn, model.blocks[0].attn
    assert torch.equal(folded.qkv.weight, original.qkv.weight)
    torch.testing.assert_close(folded.q_norm.weight, original.q_norm.weight * 8**-0.5)
    torch.testing.assert_close(folded.q_norm.bias, original.q_norm.bias * 8**-0.5)
    assert torch.equal(folded.k_norm.weight, original.k_norm.weight)


def test_layer_scale_is_gone_and_its_rows_are_scaled() -> None:
    model = random_vit(init_values=0.1)
    folded = fold_layer_scale(model).module
    for before, after in zip(model.blocks, folded.blocks, strict=True):
        assert isinstance(after.ls1, nn.Identity)
        assert isinstance(after.ls2, nn.Identity)
        torch.testing.assert_close(after.mlp.fc2.bias, before.mlp.fc2.bias * before.ls2.gamma)
