"""Cycles for the arithmetic: what a graph costs on RK3588 in int8 against DeiT-Ti, by their multiplications.

    python benchmarks/zoo/cycles.py

Printed from results.json, as Markdown. DeiT-Ti takes 1.13 million cycles, and 1.35 million times a model's share of
its multiplications is what its structure may cost.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgevit.conversion.sources import multiplications_of
from edgevit.models import load_model

RESULTS = Path(__file__).parent / "results.json"
ALLOWED = 1.35  # million cycles for DeiT-Ti's multiplications
REFERENCE = "deit_tiny_patch16_224"
COMPARED = (
    REFERENCE, "textbook_vit", "torchvision_wrapped", "beit_base_patch16_224", "vit_relpos_small_patch16_224",
    "pit_s_224", "t2t_vit_14", "swin_tiny_patch4_window7_224", "mobilevit_s", "efficientformer_l1",
)  # fmt: skip


def counted(name: str) -> int:
    """A model's multiplications, those inside its attention among them."""
    loaded = load_model(f"{RESULTS.parent / 'models.py'}:{name}")
    torch.backends.mha.set_fastpath_enabled(False)  # torch counts no products inside its own kernels
    with sdpa_kernel(SDPBackend.MATH):
        return multiplications_of(loaded) or 0


def main() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    counts = {name: counted(name) for name in COMPARED}
    print("| model | G multiplications | Mcycles | allowed | CPU ops |\n|---|---:|---:|---:|---:|")
    for name, count in counts.items():
        row = rows[f"{name} rk3588 int8"]
        allowed = ALLOWED * count / counts[REFERENCE]
        print(f"| {name} | {count / 1e9:.2f} | {row['cycles'] / 1e6:.2f} | {allowed:.2f} | ", end="")
        print(f"{sum(row['cpu_ops'].values())} |")


if __name__ == "__main__":
    main()
