"""Small run directories as a conversion would leave them, made without converting anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.metrics.classification import compare
from edgevit.targets.profiles import load_board, load_recipe

CLASSES, SIZE = 4, 24
KINDS = ("norm1", "residual1", "gelu", "residual2")
PREPROCESSING = {
    "size": [SIZE, SIZE],
    "crop_pct": 1.0,
    "crop_mode": "center",
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "channels": "RGB",
    "resize_to": None,
}


def write_run(
    folder: Path,
    *,
    n: int = 200,
    lost: int = 6,
    won: int = 2,
    targets: tuple[str, ...] = ("rk3588", "tflite"),
    labels: list[str] | None = None,
    max_drop: float | None = None,
    labelled: bool = True,
    names: list[str] | None = None,
    size: int = SIZE,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a run in which each target loses `lost` and wins `won` of `n` images; return its manifest."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, CLASSES, n)
    reference = one_hot((truth + (np.arange(n) < won)) % CLASSES)
    now = truth.copy()
    now[won : won + lost] = (truth[won : won + lost] + 1) % CLASSES
    files = names or [f"image {index}.jpg" for index in range(n)]
    validation = {"labelled": labelled, "n": n, "skipped": []}
    stages = [
        stage(folder, "model", {"files": {"weights.safetensors": "ab" * 32}}, {}, {}),
        stage(
            folder,
            "validation",
            {"images": "cd" * 32, "preprocessing": PREPROCESSING},
            validation,
            {"labels.npy": truth, "pixels.npy": random.integers(0, 256, (n, size, size, 3), np.uint8)},
        ),
        stage(folder, "float", {}, {"n": n}, {"outputs.npy": reference}),
        stage(folder, "export", {"images": "validation-key"}, {}, {}),
    ]
    (folder / "stages" / "validation-0" / "images.json").write_text(json.dumps({"names": files}))
    accuracy = compare(one_hot(now), reference, truth if labelled else None).to_json()
    results = []
    for target in targets:
        inputs = {"export": "export-key", "validation": "validation-key", "plan": {"precision": "int8"}}
        metrics = {"tools": {"toolkit": "2.5.0"}}
        stages.append(stage(folder, f"{target}-int8", inputs, metrics, {"outputs.npy": one_hot(now)}))
        results.append(result(target, accuracy, max_drop))
    manifest = {
        "format": 2,
        "edgevit": "0.1.0",
        "written": "2026-11-21T05:20:22+0000",
        "configuration": {
            "model": "deit", "weights": "my weights.safetensors", "targets": list(targets),
            "precisions": ["int8"], "recipe": "vendor-default", "max_drop": max_drop, "seed": 0,
        },
        "model": {
            "name": "deit", "source": "timm", "num_classes": CLASSES, "parity": None, "labels": labels,
            "notes": [], "preprocessing": PREPROCESSING, "parameters": 5_700_000,
            "files": {"weights.safetensors": "ab" * 32}, "key": "model-key",
        },
        "images": {"validation": {**validation, "key": "validation-key", "sha256": "cd" * 32}},
        "boards": {target: load_board(target).model_dump(mode="json") for target in targets},
        "recipe": load_recipe("vendor-default").model_dump(mode="json"),
        "host": {"cpu": "x86", "cores": 2, "memory_mb": 4096, "python": "3.11"},
        "versions": {"torch": "2.13.0"},
        "stages": stages,
        "results": results,
        "warnings": ["2 of 200 images repeat another one's content"],
    }  # fmt: skip
    save(folder, manifest)
    return manifest


def save(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def stage(
    folder: Path, name: str, inputs: dict[str, Any], metrics: dict[str, Any], arrays: dict[str, Any]
) -> dict[str, Any]:
    """Write a stage's arrays; return its record."""
    home = folder / "stages" / f"{name}-0"
    home.mkdir(parents=True, exist_ok=True)
    for file, array in arrays.items():
        np.save(home / file, array)
    return {
        "stage": name, "key": f"{name}-key", "folder": home.name, "inputs": inputs, "metrics": metrics,
        "outputs": {}, "seconds": 1.5, "peak_memory_mb": 100, "cached": False,
    }  # fmt: skip


def one_hot(answers: Any) -> Any:
    """Outputs that say these classes."""
    return 4.0 * np.eye(CLASSES, dtype=np.float32)[answers]


def export_metrics() -> dict[str, Any]:
    """What an export stage records."""
    rewrite = {"name": "split-strides", "what": "16x16 runs as 4x4 then 4x4", "changed": True}
    return {"parity": 3.1e-6, "rewrites": [rewrite]}


def result(target: str, accuracy: dict[str, Any], max_drop: float | None) -> dict[str, Any]:
    """One artefact's record."""
    npu = target.startswith("rk")
    drop = accuracy["drop_points"]
    gate = None if max_drop is None or drop is None else ("missed" if drop > max_drop else "met")
    return {
        "target": target,
        "precision": "int8",
        "artefact": f"deit-{target}-int8.{'rknn' if npu else 'tflite'}",
        "sha256": "ef" * 32,
        "bytes": 7_800_000 if npu else 6_400_000,
        "how": "vendor simulator" if npu else "host CPU",
        "seconds": 12.0,
        "peak_memory_mb": 900,
        "step": f"{target}-int8-key",
        "export": "export-key",
        "preprocessing": PREPROCESSING,
        "plan": {"precision": "int8"},
        "tools": {"toolkit": "2.5.0"},
        **export_metrics(),
        "accuracy": accuracy,
        "gate": gate,
        "latency": {
            "latency_ms": 10.9, "low_ms": 6.7, "high_ms": 17.6, "label": "edgevit estimate",
            "parts": {"convolutions": 2.0, "norms": 2.5, "attention": 5.6, "launches": 0.8},
        } if npu else None,
        "details": {"placement": placement(), "warnings": [], "disabled_rules": []}
        if npu
        else {"partitions": 2, "operations": {"ADD": 3, "GELU": 1}, "outside": {"GELU": 1}},
    }  # fmt: skip


def placement() -> dict[str, Any]:
    """A compiler's table of three layers, one of them on the CPU."""
    rows = [("Conv", "NPU", 1000), ("exNorm", "NPU", 0), ("Softmax", "CPU", 0)]
    layers = [
        {
            "index": index, "op": op, "dtype": "INT8", "target": target, "inputs": [[1, 8, 1, 16]],
            "inputs_complete": True, "outputs": [[1, 8, 1, 16]], "cycles_ddr": cycles, "cycles_npu": cycles,
            "cycles_total": cycles, "traffic_kb": 4, "name": f"{op}:layer",
        }
        for index, (op, target, cycles) in enumerate(rows)
    ]  # fmt: skip
    return {"layers": layers, "internal_bytes": 1000, "weight_bytes": 2000}


def diagnosed(result: dict[str, Any], *, blocks: int = 3) -> None:
    """Add what a conditioned int8 conversion with a search records."""
    effects = {f"blocks.{block}.{kind}": 0.001 * (block + 1) for block in range(blocks) for kind in KINDS}
    result["diagnosis"] = {
        "explanation": "block 7's fc2 writes 580 into channel 133 for 0.4 % of tokens",
        "effects": {**effects, "embed": 0.0004},
        "weights_only_kl": 0.004,
        "activations_only_kl": 0.05,
        "conditioning": [{"name": "rotate", "before": {"kl": 0.06}, "after": {"kl": 0.03}, "kept": True}],
    }
    result["plan"] = {"precision": "int8", "sixteen_bit": ["blocks.2.residual2"]}
    trial = {
        "label": None,
        "added": "blocks.2",
        "cycles": 1200,
        "total_cycles": 1_284_000,
        "latency_ms": 12.6,
        "points": 0.4,
        "upper": 0.5,
        "agreement": 0.97,
    }
    recipe = {
        "label": "static",
        "latency_ms": 12.0,
        "latency_ratio": 1.3,
        "drop_points": 0.2,
        "accepted": True,
    }
    failed = {"label": "dynamic", "failure": "the converter stopped"}
    result["search"] = {
        "tried": [{**trial, "how": "simulate"}, {**recipe, "how": "host CPU"}, failed],
        "chosen": {"added": "blocks.2", "cycles": 1200},
        "explanation": "target of 0.5 points met",
    }


def bench(artefact: str, *, how: str = "measured on Radxa ROCK 5B", p50: float = 8.0) -> dict[str, Any]:
    """What `edgevit bench` leaves."""
    samples = [p50 + 0.01 * index for index in range(-50, 50)]
    row = {
        "n": 100, "min": samples[0], "p50": p50, "p90": p50 + 0.4, "p99": p50 + 0.5, "mean": p50,
        "throughput": 1000 / p50, "samples_ms": samples,
    }  # fmt: skip
    return {
        "format": 2, "where": "ssh://rock@10.0.0.8", "artefact": artefact, "target": "rk3588",
        "precision": "int8", "how": how, "machine": {"model": "Radxa ROCK 5B", "cores": 8, "memory_mb": 8192},
        "versions": {"librknnrt": "2.5.0"}, "latency": {"threads": {"1": row, "4": row}, "best": "4"},
        "first_ms": 30.0, "load_ms": 12.0, "peak_rss_mb": 88.0, "accuracy": None,
        "clocks": {"pinned": True, "throttled": False}, "warnings": [], "written": "2026-11-21",
        "layers": [
            {"index": 1, "op": "Conv", "target": "NPU", "us": 900, "cycles": 5000, "name": "/patch_embed/Conv"},
            {"index": 2, "op": "exSoftmax13", "target": "CPU", "us": 2100, "cycles": 0, "name": "/attn/Softmax"},
        ],
        "same_as_local": {"n": 50, "agree": 49, "max_output_difference": 0.25},
    }  # fmt: skip


def save_bench(folder: Path, name: str, values: dict[str, Any]) -> None:
    """Write a measurement."""
    (folder / "bench").mkdir(parents=True, exist_ok=True)
    (folder / "bench" / f"{name}.json").write_text(json.dumps(values))
