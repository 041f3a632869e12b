"""The models of the zoo, untrained: seeded random weights, the smallest variant of each.

What a compiler makes of a graph, and whether it computes it, doesn't depend on training. Residual scales that
start near zero are set to 1, or exporters fold whole branches away; biases and tokens that start at zero are drawn,
or a build that loses them would look right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import handwritten
import torch
from torch import nn

from edgevit import torch_setup  # noqa: F401
from edgevit.models.python_file import preprocessing_of

import timm  # isort: skip  # needs the line above

SCALES = ("gamma", "gamma_1", "gamma_2", "gamma1", "gamma2", "gamma3", "scale", "res_scale", "layer_scale")
TIMM = (
    "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_relpos_small_patch16_224",
    "vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "vit_wee_patch16_reg1_gap_256",
    "eva02_tiny_patch14_224", "beit_base_patch16_224", "beitv2_base_patch16_224", "cait_xxs24_224",
    "crossvit_tiny_240", "pit_ti_224", "tnt_s_legacy_patch16_224", "xcit_nano_12_p16_224", "volo_d1_224",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "maxvit_rmlp_pico_rw_256",
    "coatnet_pico_rw_224", "twins_svt_small", "pvt_v2_b0", "pvt_v2_b2_li", "nest_tiny", "mvitv2_tiny",
    "levit_128s", "mobilevit_xxs", "mobilevitv2_100", "efficientformer_l1", "efficientformerv2_s0",
    "efficientvit_b0", "fastvit_t8", "repvit_m0_9", "tiny_vit_5m_224", "edgenext_xx_small", "convnext_atto",
    "mobilenetv4_hybrid_medium",
)  # fmt: skip
MORE = (
    "deit3_small_patch16_224", "vit_srelpos_small_patch16_224", "swin_s3_tiny_224", "swinv2_cr_tiny_ns_224",
    "coatnext_nano_rw_224", "maxvit_tiny_tf_224", "vit_small_patch14_reg4_dinov2", "convit_tiny",
    "coat_lite_tiny", "gcvit_xxtiny", "davit_tiny", "hiera_tiny_224", "sequencer2d_s", "poolformer_s12",
    "visformer_tiny", "twins_pcpvt_small", "fastvit_sa12", "efficientvit_m0", "vit_small_patch16_rope_224",
)  # fmt: skip
# Chosen when everything above converted, to see what a model meets that nobody had looked at.
LATER = (
    "caformer_s18", "convformer_s18", "convnextv2_atto", "csatv2", "efficientvim_m1", "fasternet_t0",
    "focalnet_tiny_srf", "gmlp_ti16_224", "mixer_s32_224", "resmlp_12_224", "iformer_t", "inception_next_atto",
    "lowformer_b0", "mambaout_femto", "nextvit_small", "poolformerv2_s12", "rdnet_tiny", "shvit_s1", "starnet_s1",
    "swiftformer_xs", "vitamin_small_224", "halonet26t", "botnet26t_256", "lambda_resnet26t", "resnet18",
    "mobilenetv3_small_050", "vit_tiny_r_s16_p8_224", "vit_medium_patch16_reg4_gap_256",
    "vit_xsmall_patch16_clip_224", "vit_dwee_patch16_reg1_gap_256", "flexivit_small", "ghostnetv3_050",
    "convmixer_768_32", "hieradet_small", "vit_pwee_patch16_reg1_gap_256", "cpubone_nano",
    "maxxvit_rmlp_nano_rw_256", "naflexvit_base_patch16_gap", "mobilenetv4_conv_small", "vit_base_mci_224",
    "cs3darknet_s", "eva02_small_patch14_224", "vit_small_patch16_rope_mixed_224",
    "vit_small_patch16_rope_ape_224", "pit_s_224", "mobilevit_s",
)  # fmt: skip
HUGGING_FACE: dict[str, tuple[str, dict[str, Any]]] = {
    "hf_vit": ("ViT", {}),
    "hf_deit": ("DeiT", {}),
    "hf_beit": ("Beit", {"use_relative_position_bias": True}),
    "hf_dinov2": ("Dinov2", {"image_size": 224, "mlp_ratio": 4}),
    "hf_clip": ("CLIP", {}),
    "hf_swin": ("Swin", {}),
    "hf_pvt": ("Pvt", {}),
    "hf_mobilevit": ("MobileViT", {"image_size": 256}),
}
HUGGING_FACE_LATER: dict[str, tuple[str, dict[str, Any]]] = {
    "hf_dinov2reg": ("Dinov2WithRegisters", {"image_size": 224, "mlp_ratio": 4}),
    "hf_siglip": ("Siglip", {}),
    "hf_swinv2": ("Swinv2", {"image_size": 256, "window_size": 8}),
    "hf_convnextv2": ("ConvNextV2", {"hidden_sizes": [48, 96, 192, 384], "depths": [2, 2, 6, 2]}),
    "hf_data2vec": ("Data2VecVision", {"use_relative_position_bias": True}),
    "hf_levit": ("Levit", {}),
    "hf_poolformer": ("PoolFormer", {}),
    "hf_hiera": ("Hiera", {}),
    "hf_vit_msn": ("ViTMSN", {}),
    "hf_segformer": ("Segformer", {}),
    "hf_mobilevitv2": ("MobileViTV2", {"image_size": 256}),
    "hf_pvtv2": ("PvtV2", {}),
    "hf_cvt": ("Cvt", {}),
    "hf_focalnet": ("FocalNet", {}),
    "hf_swiftformer": ("SwiftFormer", {}),
    "hf_regnet": ("RegNet", {}),
    "hf_ijepa": ("IJepa", {}),
}
# DeiT-Ti's shape for the plain ones: their own defaults are ViT-B.
TINY = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
PLAIN = ("hf_vit", "hf_deit", "hf_beit", "hf_dinov2", "hf_dinov2reg", "hf_data2vec", "hf_vit_msn", "hf_ijepa")
TWO_TOWERS = ("CLIP", "Siglip")


class Logits(nn.Module):
    """The logits alone of what a Hugging Face classifier gives; its wrapper is what users write."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.preprocessing = model, {"size": (size, size)}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=image).logits
        return logits


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A model in eval mode with seeded weights, none of which hide a part of it."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.rpartition(".")[2] in SCALES or name.endswith("lambda1"):
                values.fill_(1.0)
            elif values.numel() > 1 and values.std() < 0.001 and values.abs().mean() < 0.001:
                values.normal_(std=0.02)
    settle_batch_norms(model)
    return model


@torch.no_grad()
def settle_batch_norms(model: nn.Module) -> None:
    """Give batch norms the statistics of noise: with fresh ones the image's part of the outputs fades away."""
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = None  # a plain mean
        norm.train()
    size = preprocessing_of("", model, None, []).size
    model(torch.randn(8, 3, *size))
    for norm in norms:
        norm.eval()


def hugging_face(kind: str, options: dict[str, Any]) -> nn.Module:
    """An image classifier of `transformers` built from a configuration, without a download."""
    import transformers

    common = {"num_labels": 1000, **options}
    if kind in TWO_TOWERS:
        vision = {**TINY, "patch_size": 16, "image_size": 224}
        config = getattr(transformers, f"{kind}Config")(vision_config=vision, num_labels=1000)
    else:
        config = getattr(transformers, f"{kind}Config")(**common)
    model = getattr(transformers, f"{kind}ForImageClassification")(config)
    return Logits(model, int(options.get("image_size", 224)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(timm.create_model, name, pretrained=False) for name in TIMM},
    **{
        name: partial(hugging_face, kind, {**options, **(TINY if name in PLAIN else {})})
        for name, (kind, options) in HUGGING_FACE.items()
    },
    **{name: getattr(handwritten, name) for name in handwritten.__all__},
    **{name: partial(timm.create_model, name, pretrained=False) for name in MORE},
    **{name: partial(timm.create_model, name, pretrained=False, num_classes=1000) for name in LATER},
    **{
        name: partial(hugging_face, kind, {**options, **(TINY if name in PLAIN else {})})
        for name, (kind, options) in HUGGING_FACE_LATER.items()
    },
}
# Where the model's own default is another size or another number of classes.
for name in ("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"):
    MODELS[name] = partial(timm.create_model, name, img_size=224, num_classes=1000)
for name in ("beit_base_patch16_224", "beitv2_base_patch16_224"):  # there is no smaller one
    MODELS[name] = partial(timm.create_model, name, embed_dim=192, num_heads=3)
MODELS["naflexvit_base_patch16_gap"] = partial(
    timm.create_model, "naflexvit_base_patch16_gap", embed_dim=192, num_heads=3, num_classes=1000
)
for name in ("eva02_tiny_patch14_224", "tiny_vit_5m_224"):
    MODELS[name] = partial(timm.create_model, name, num_classes=1000)


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """`models.py:NAME` for every name of the table."""
    if name not in MODELS:
        raise AttributeError(name)
    return partial(seeded, MODELS[name])
