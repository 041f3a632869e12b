"""A folder to send to a vendor whose compiler does not compute a model: what shows the fault, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.backends.proof import Probe, Proof
from edgevit.backends.protocol import Outputs
from edgevit.images.preprocessing import Preprocessing

NAME = "for-vendor"


def write_vendor_folder(
    out: Path,
    graph: Path,
    probe: Probe,
    preprocessing: Preprocessing,
    found: Outputs,
    proof: Proof,
    *,
    log: str,
    facts: Mapping[str, Any],
) -> None:
    """Write `out`/for-vendor: graph, normalised inputs, outputs expected and found, log, versions.

    `facts` are the vendor's own: platform, versions. Nothing of the user's is in it but the model and the probe.
    """
    folder = out / NAME
    folder.mkdir()
    shutil.copyfile(graph, folder / f"model{graph.suffix}")
    shutil.copyfile(probe.outputs, folder / "expected.npy")
    np.save(folder / "inputs.npy", preprocessing.normalise(np.load(probe.pixels, allow_pickle=False)))
    np.save(folder / "found.npy", found)
    (folder / "log.txt").write_text(log, encoding="utf-8")
    versions = {
        **facts,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "proof": proof.to_json(),
    }
    (folder / "versions.json").write_text(json.dumps(versions, indent=1), encoding="utf-8")
