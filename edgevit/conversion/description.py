"""What an artefact says of itself: a line of JSON inside the file, for whoever finds it without its run."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgevit.images.preprocessing import Preprocessing
from edgevit.outputs.output import Outputs


def description_of(
    preprocessing: Preprocessing, outputs: Outputs, labels: Sequence[str] | None, room: int | None
) -> str:
    """How images are prepared, what comes out, and class names where they fit into `room` bytes; ASCII."""
    told = {
        "made_by": "edgevit",
        "input": {
            **preprocessing.for_programs(),
            "mean": [round(value, 6) for value in preprocessing.mean],
            "std": [round(value, 6) for value in preprocessing.std],
        },
        "outputs": [{"name": each.name, "kind": each.kind} for each in outputs.each],
    }
    named = told | {"labels": list(labels)} if labels and len(labels) == outputs.classes else told
    for tried in (named, told, {"made_by": "edgevit", "input": told["input"]}):
        text = json.dumps(tried, separators=(",", ":"))
        if room is None or len(text) <= room:
            return text
    return ""
