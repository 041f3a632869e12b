"""Patch embeddings whose strides an NPU can take.

A convolution with kernel K and stride K is a linear map of disjoint patches. Convolutions that only copy
pixels into channels ("taps": each output channel has one weight, 1) bring a patch together step by step, and
the last convolution applies the trained weights to it. Same sums, other order; the strides multiply to K.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from edgevit.rewrites.canonical import require_canonical
from edgevit.rewrites.modules import SplitPatchEmbed
from edgevit.rewrites.result import RewriteResult
from edgevit.targets.profiles import Npu

Chain = tuple[tuple[int, int], ...]

MAX_STAGES = 3


def split_patch_embed(model: nn.Module, npu: Npu | None) -> RewriteResult:
    """Replace a KhxKw, stride-K patch convolution by a chain whose strides fit `npu.max_conv_stride`.

    Raises InputError for a module that isn't canonical.
    """
    vit = require_canonical(model, "split-patch-embed")
    stem = vit.patch_embed
    problem = why_not_split(stem, npu)
    if problem is not None or npu is None or npu.max_conv_stride is None:
        return RewriteResult(model, False, problem or "the target has no limit on strides")
    kernel, image = tuple(stem.proj.kernel_size), tuple(stem.img_size)
    chain = best_chain(kernel, npu, image, stem.proj.in_channels, stem.proj.out_channels)
    if chain is None:
        limit = npu.max_conv_stride
        return RewriteResult(
            model, False, f"no {MAX_STAGES} strides up to {limit} multiply to {kernel[0]}x{kernel[1]}"
        )
    rewritten = copy.deepcopy(vit)
    rewritten.patch_embed = chained(stem, chain)
    steps = " then ".join(f"{height}x{width}" for height, width in chain)
    return RewriteResult(rewritten, True, f"{kernel[0]}x{kernel[1]} patch convolution runs as {steps}")


def why_not_split(stem: Any, npu: Npu | None) -> str | None:
    """None where the split applies; else why the patch embedding is left as it is."""
    if isinstance(stem, SplitPatchEmbed):
        return "the patch convolution is already a chain"
    conv = stem.proj
    if stem.dynamic_img_pad or not stem.strict_img_size or stem.img_size is None:
        return "its patch embedding takes images of any size"
    if not stem.flatten:
        return "its patch embedding does not return a token sequence"
    plain = conv.padding == (0, 0) and conv.dilation == (1, 1) and conv.groups == 1
    if not plain or conv.stride != conv.kernel_size:
        return "its patches overlap or are padded"
    if npu is not None and npu.max_conv_stride is not None and max(conv.stride) <= npu.max_conv_stride:
        return f"stride {max(conv.stride)} fits the target's limit of {npu.max_conv_stride}"
    return None


def best_chain(
    kernel: tuple[int, int], npu: Npu, image: tuple[int, int], channels: int, dim: int
) -> Chain | None:
    """The chain of strides with the fewest `cycles`, on a tie the shorter and more even one; None if there is none.

    A profile that tells neither speed nor memory traffic leaves all chains equal.
    """
    limit = npu.max_conv_stride or max(kernel)

    def rank(chain: Chain) -> tuple[float, int, int]:
        cost = cycles(chain, npu, image, channels, dim)
        return cost, len(chain), max(max(strides) for strides in chain)

    return min(chains(kernel, limit), key=rank, default=None)


def chains(kernel: tuple[int, int], limit: int) -> Iterator[Chain]:
    """Sequences of up to MAX_STAGES (height, width) strides within `limit` whose products are the kernel."""
    for stages in range(1, MAX_STAGES + 1):
        for heights in ordered_factors(kernel[0], stages, limit):
            for widths in ordered_factors(kernel[1], stages, limit):
                chain = tuple(zip(heights, widths, strict=True))
                if (1, 1) not in chain:
                    yield chain


def ordered_factors(number: int, count: int, limit: int) -> list[tuple[int, ...]]:
    """Every ordered product of `count` factors from 1 to `limit` that gives `number`."""
    divisors = [factor for factor in range(1, limit + 1) if number % factor == 0]
    return [factors for factors in itertools.product(divisors, repeat=count) if math.prod(factors) == number]


def cycles(chain: Chain, npu: Npu, image: tuple[int, int], channels: int, dim: int) -> float:
    """Cycles of a chain by the model that reproduces the vendor compiler's own count for int8 convolutions.

    The time of int8 multiply-accumulates in whole blocks, or of memory traffic, whichever takes longer, summed
    over the convolutions. What the profile does not tell is not counted.
    """
    macs = npu.macs_per_cycle_int8 or math.inf
    (height, width), total, before = image, 0.0, image[0] * image[1] * channels
    for index, (down, across) in enumerate(chain):
        height, width, taps = height // down, width // across, down * across
        out = dim if index == len(chain) - 1 else channels * taps
        work = taps * npu.macs_of(height * width, channels, out)
        weights, after = channels * taps * out, height * width * out
        traffic = (before + weights + after) / (npu.ddr_bytes_per_cycle or math.inf)
        total += max(work / macs, traffic)
        channels, before = out, after
    return total


def chained(stem: Any, chain: Chain) -> SplitPatchEmbed:
    """The patch embedding with its convolution replaced by `chain`."""
    conv, taps = stem.proj, nn.Sequential()
    channels, gathered = conv.in_channels, torch.arange(conv.weight[0].numel()).view(conv.weight.shape[1:])
    for stride in chain[:-1]:
        taps.append(tap_convolution(channels, stride).to(conv.weight))
        channels *= stride[0] * stride[1]
    down, across = (math.prod(step[axis] for step in chain[:-1]) for axis in (0, 1))
    last = nn.Conv2d(channels, conv.out_channels, chain[-1], chain[-1], bias=conv.bias is not None).to(
        conv.weight
    )
    with torch.no_grad():
        # Taps applied to the index of every weight of a patch say where each weight goes.
        order = gathered.double()[None]
        for tap in taps:
            order = tap.double()(order)
        order = order[0].round().long()
        taps.to(conv.weight)
        last.weight.copy_(conv.weight.flatten(1)[:, order.flatten()].view_as(last.weight))
        if conv.bias is not None:
            last.bias = nn.Parameter(conv.bias.clone())
    assert order.shape[1:] == (stem.patch_size[0] // down, stem.patch_size[1] // across)
    return SplitPatchEmbed(stem, taps.eval(), last.eval())


def tap_convolution(channels: int, stride: tuple[int, int]) -> nn.Conv2d:
    """A convolution that only copies: output channel (c, i, j) is pixel (i, j) of channel c's window."""
    down, across = stride
    conv = nn.Conv2d(channels, channels * down * across, stride, stride, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(channels * down * across).view_as(conv.weight))
    return conv
