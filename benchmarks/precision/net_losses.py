"""How many changed predictions are net losses (lost minus won), over the artefacts measured in this folder.

    python benchmarks/precision/net_losses.py

The constant CHANGES_PER_POINT of edgevit/metrics/predicted_loss.py is the inverse of the upper end, rounded.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

CHANGED_BELOW = 0.05  # where limits of a point or less are decided; of larger changes more are losses
CONFIDENCE = 1.645  # one-sided 95 %


def main() -> None:
    """Print the pooled share and its upper end."""
    folder = Path(__file__).parent
    changed = lost = won = artefacts = 0
    for name in ("rknn.json", "mobile.json"):
        for result in json.loads((folder / name).read_text(encoding="utf-8")).values():
            found = result["accuracy"]
            moved = round(found["n"] * (1 - found["agreement"]))
            if 0 < moved < CHANGED_BELOW * found["n"]:
                artefacts += 1
                changed, lost, won = changed + moved, lost + found["lost"], won + found["won"]
    share = (lost - won) / changed
    spread = math.sqrt(((lost + won) / changed - share**2) / changed)
    print(f"{artefacts} artefacts, {changed} changed predictions: {lost} lost, {won} won")
    print(f"net losses: {share:.2f} of the changes, 95 % below {share + CONFIDENCE * spread:.2f}")


if __name__ == "__main__":
    main()
