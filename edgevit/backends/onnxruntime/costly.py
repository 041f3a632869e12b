"""Ways to quantize that leave the layers in float which cost most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgevit.backends.costliest import costliest
from edgevit.backends.onnxruntime.host import run
from edgevit.backends.onnxruntime.recipes import QUANTIZED, OnnxOptions, quantize, with_weights
from edgevit.backends.trials import Candidate, TrialRequest
from edgevit.progress import QUIET, Progress

IMAGES = 16
MOST, SECONDS = 8, 120.0


def sparing(request: TrialRequest, closest: Candidate, progress: Progress) -> tuple[Candidate, ...]:
    """The candidate without the layers that cost it most: all of them, the first half of them, and so on to one.

    What layers cost: the difference to float with only them quantized, on the first images that ranges are
    fitted on.
    """
    from edgevit.outputs.output import CLASS_SCORES  # brings scipy

    source, preprocessing = request.source_model, request.preprocessing
    layers = with_weights(source, QUANTIZED)
    images = np.load(request.fit, mmap_mode="r", allow_pickle=False)[:IMAGES]
    expected = run(source, images, preprocessing, QUIET)
    options = OnnxOptions(**closest.options)
    outputs, tried = request.outputs or CLASS_SCORES, 0

    def cost(group: Sequence[str]) -> float:
        nonlocal tried
        tried += 1
        progress.advance(tried, 0, f"what int8 costs in {len(group)} of {len(layers)} layers")
        left = tuple(name for name in layers if name not in group)
        model = request.out / "alone.onnx"
        quantize(source, model, options.model_copy(update={"float_layers": left}), request.fit, preprocessing)
        return outputs.difference(run(model, images, preprocessing, QUIET), expected).kl

    found = list(costliest(layers, cost, most=MOST, seconds=SECONDS))
    counts = [len(found) >> halved for halved in range(len(found).bit_length())]
    return tuple(
        replace(
            closest,
            label=f"{closest.label}, {count} layers in float",
            own_options={**closest.options, "float_layers": found[:count]},
        )
        for count in counts
    )
