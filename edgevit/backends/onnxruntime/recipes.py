"""ONNX Runtime's ways to quantize, by the names a plan may give."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from edgevit.backends.trials import Candidate
from edgevit.errors import InputError
from edgevit.images.preprocessing import Preprocessing
from edgevit.targets.profiles import Strict

RecipeName = Literal["dynamic", "dynamic_7bit", "dynamic_static_convolution", "static_linear_convolution"]
LINEAR = ("MatMul", "Gemm")
QUANTIZED = (*LINEAR, "Conv")

# The most faithful first. Attention's own products are never quantized: both their sides change with the image,
# and int8 for them costs accuracy and time.
CANDIDATES = (
    Candidate("dynamic", "int8 weights per channel; activations measured at run time"),
    Candidate("dynamic_7bit", "the same with 7-bit weights, for CPUs whose int8 products saturate"),
    Candidate("dynamic_static_convolution", "dynamic, and the patch convolution with fixed ranges"),
    Candidate("static_linear_convolution", "linear layers and convolutions with fixed ranges"),
)
# What the vendor's guide recommends for transformers: used where there is nothing to measure on.
VENDOR_DEFAULT: RecipeName = "dynamic"
Calibrated = Callable[[], Any]
Names = Collection[str]


class OnnxOptions(Strict):
    """`recipe`: the name of a way to quantize; None: it is measured. `float_layers`: nodes that it leaves alone."""

    recipe: RecipeName | None = None
    float_layers: tuple[str, ...] = ()


def quantize(
    source: Path, out: Path, options: OnnxOptions, calibration: Path, preprocessing: Preprocessing
) -> None:
    """Quantize a float .onnx. `calibration` is pixels uint8 [n, height, width, channels] .npy for fixed ranges.

    Raises InputError for layers to leave in float that the graph has not.
    """
    layers = with_weights(source, QUANTIZED) if options.float_layers else []
    for name in options.float_layers:
        if name not in layers:
            near = get_close_matches(name, layers, n=1)
            raise InputError(
                f"cannot leave {name} in float",
                "the graph has no layer of that name",
                f"Rename it to {near[0]}"
                if near
                else "See the .plan.toml of a run, or the .onnx, for the names",
            )
    readers = partial(Images, calibration, preprocessing)
    with quiet():
        RECIPES[options.recipe or VENDOR_DEFAULT](source, out, readers, options.float_layers)


def dynamic(source: Path, out: Path, readers: Calibrated, left: Names, *, reduce_range: bool = False) -> None:
    """Linear layers with weights in int8, activations rounded to what each image shows."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        out,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=reduce_range,
        op_types_to_quantize=list(LINEAR),
        nodes_to_exclude=list(left),
    )


def static(source: Path, out: Path, readers: Calibrated, left: Names, *, types: tuple[str, ...]) -> None:
    """Layers with weights of their own in int8, activations in uint8 with ranges from the images."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        source,
        out,
        readers(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=list(types),
        nodes_to_quantize=[name for name in with_weights(source, types) if name not in left],
        extra_options={"ActivationSymmetric": False},
    )


def fake_quantize(source: Path, out: Path, calibration: Path, preprocessing: Preprocessing) -> None:
    """Every operation in int8, as an NPU computes it, to foresee what it costs; `calibration` as in `quantize`."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with quiet():
        quantize_static(
            source,
            out,
            Images(calibration, preprocessing),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )


def static_then_dynamic(source: Path, out: Path, readers: Calibrated, left: Names) -> None:
    """Convolutions with fixed ranges, everything linear dynamic."""
    if not with_weights(source, ("Conv",)):
        raise ValueError("the model has no convolution")
    with TemporaryDirectory(dir=out.parent) as folder:
        between = Path(folder) / "static.onnx"
        static(source, between, readers, left, types=("Conv",))
        dynamic(between, out, readers, left)


RECIPES: dict[str, Callable[[Path, Path, Calibrated, Names], None]] = {
    "dynamic": dynamic,
    "dynamic_7bit": partial(dynamic, reduce_range=True),
    "dynamic_static_convolution": static_then_dynamic,
    "static_linear_convolution": partial(static, types=QUANTIZED),
}


def with_weights(source: Path, types: tuple[str, ...]) -> list[str]:
    """Names of the nodes of these types whose second input is a constant."""
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    constants = {each.name for each in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    return [node.name for node in graph.node if node.op_type in types and node.input[1] in constants]


class Images:
    """Calibration images as ONNX Runtime's calibrator asks for them: one input at a time, then None."""

    def __init__(self, pixels: Path, preprocessing: Preprocessing) -> None:
        self.images: Iterator[Any] = iter(np.load(pixels, mmap_mode="r", allow_pickle=False))
        self.preprocessing = preprocessing

    def get_next(self) -> dict[str, Any] | None:
        """The next image by input name."""
        image = next(self.images, None)
        return None if image is None else {"input": self.preprocessing.normalise(np.asarray(image)[None])}

    def set_range(self, start_index: int, end_index: int) -> None:
        """Part of the vendor's interface; all images are always read."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without the vendor's advice on a pre-processing step that is already done."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
