"""Real logs of rknn-toolkit2 builds: `tiny` is a ViT of 2 blocks at 32 px, `deit` is DeiT-Ti at 224 px.

The release is 2.5.0 where a name gives none. `hybrid` is edgevit's graph with 87 of its tensors in int16.
"""

from __future__ import annotations

import gzip
from pathlib import Path

FOLDER = Path(__file__).parent / "recorded"
NAMES = sorted(path.name.removesuffix(".log.gz") for path in FOLDER.glob("*.log.gz"))
# Refused, aborted, or died in a fusion rule: no table was printed.
WITHOUT_TABLE = {
    "levit-rk3588-int8-rule-fails",
    "tiny-rk2118-int8",
    "tiny-rv1103-float",
    "tiny-rv1103b-float",
    "tiny-rv1106-float",
    "tiny-rv1106b-float",
}
WITH_TABLE = [name for name in NAMES if name not in WITHOUT_TABLE]


def recorded(name: str) -> str:
    """One build's whole log."""
    return gzip.decompress((FOLDER / f"{name}.log.gz").read_bytes()).decode(errors="replace")
