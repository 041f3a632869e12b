"""LiteRT's ways to quantize: edgevit's own by name, as rules of the vendor's quantizer, and which to offer.

A rule names an operation and what becomes of it; operations without a rule stay float. The configurations are
the vendor's: `dynamic_wi8_afp32`, `static_wi8_ai8` and `static_wi8_ai16` of ai-edge-quantizer 0.10.0.
"""

from __future__ import annotations

from typing import Any

from edgevit.backends.trials import Candidate

Rules = list[dict[str, Any]]

DYNAMIC, FULL_INT8, FULL_16X8 = "dynamic_wi8_afp32", "static_wi8_ai8", "static_wi8_ai16"
# What the vendor's guide recommends for CPUs: used where there is nothing to measure on.
VENDOR_DEFAULT = DYNAMIC
WEIGHTS = {"num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT"}
DYNAMIC_INT8 = {
    "weight_tensor_config": WEIGHTS,
    "compute_precision": "INTEGER",
    "explicit_dequantize": False,
    "skip_checks": False,
    "min_weight_elements": 0,
}
ACTIVATIONS = {"num_bits": 8, "symmetric": False, "granularity": "TENSORWISE", "dtype": "INT"}
STATIC_INT8 = {"activation_tensor_config": ACTIVATIONS, **DYNAMIC_INT8}


def rule(operation: str, config: dict[str, Any]) -> dict[str, Any]:
    """One rule for every operation of a type."""
    return {
        "regex": ".*",
        "operation": operation,
        "algorithm_key": "min_max_uniform_quantize",
        "op_config": config,
    }


LINEAR, CONVOLUTION = "FULLY_CONNECTED", "CONV_2D"
OWN: dict[str, Rules] = {
    "dynamic_linear": [rule(LINEAR, DYNAMIC_INT8)],
    "dynamic_linear_static_convolution": [rule(LINEAR, DYNAMIC_INT8), rule(CONVOLUTION, STATIC_INT8)],
    "static_linear_convolution": [rule(LINEAR, STATIC_INT8), rule(CONVOLUTION, STATIC_INT8)],
}
# The most faithful first. 16-bit activations are never offered for a CPU, which has no fast kernels for them.
CPU = (
    Candidate("dynamic_linear", "fully connected layers with int8 weights, activations measured at run time"),
    Candidate(DYNAMIC, "the same, and the patch convolution: one range for a whole image"),
    Candidate("dynamic_linear_static_convolution", "the same, the patch convolution with fixed ranges"),
    Candidate("static_linear_convolution", "fully connected layers and convolutions with fixed ranges"),
)
# An NPU takes integers only, so the order is that of speed.
NPU = (
    Candidate(FULL_INT8, "every operation in int8"),
    Candidate(FULL_16X8, "every operation with int8 weights and int16 activations"),
)
DELEGATES = {"cpu": CPU, "npu": NPU}


def rules(name: str) -> str | Rules:
    """What the worker is to be asked for by a plan's recipe: our rules, or the vendor's own name."""
    return OWN.get(name, name)
