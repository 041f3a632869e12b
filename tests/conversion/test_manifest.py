"""When a limit on the accuracy lost counts as met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgevit.conversion.manifest import broken, gate, refuse_missed_gate
from edgevit.errors import QualityGateMissed
from edgevit.run.manifest import manifest_of
from tests.reporting import runs

SENTENCE = "target of 0.01 points not met in the time given: outcome. Allow more --search-minutes; need"


@pytest.mark.parametrize(
    ("drop", "search", "max_drop", "expected"),
    [
        (0.4, None, 0.5, "met"),
        (0.6, None, 0.5, "missed"),
        (0.4, {"met": True}, 0.5, "met"),
        (-0.1, {"met": False}, 0.01, "missed"),  # a lucky drop on so few images proves nothing
        (9.0, {"met": False}, None, None),
        (None, None, 0.5, None),  # images without labels
    ],
)
def test_a_limit_is_met_on_validation_images_and_by_the_search(
    drop: float | None, search: dict[str, Any] | None, max_drop: float | None, expected: str | None
) -> None:
    assert gate({"drop_points": drop}, search, max_drop) == expected


def test_a_missed_limit_ends_with_code_4_and_says_what_it_would_take(tmp_path: Path) -> None:
    values = runs.write_run(tmp_path, max_drop=0.01, lost=6, won=2)
    values["results"][0]["search"] = {"met": False, "explanation": SENTENCE}
    values["results"][1]["gate"] = "met"
    manifest = manifest_of(values)
    with pytest.raises(QualityGateMissed) as caught:
        refuse_missed_gate(manifest)
    assert caught.value.exit_code == 4
    assert str(caught.value) == (
        f"--max-drop 0.01 was not met: rk3588 int8 lost 2.00 points of top-1; {SENTENCE}. The artefacts are kept "
        "and marked in manifest.json; use --precision float where the target has it, or accept a larger drop."
    )


def accuracy(agreement: float) -> dict[str, Any]:
    common = {"n": 100, "agreement_low": 0.0, "agreement_high": 1.0, "kl": 0.1, "cosine": 0.5}
    return {**common, "agreement": agreement}


def test_an_artefact_that_computes_something_else_is_called_broken() -> None:
    warning = broken("rk2118", "float", accuracy(0.06))
    assert warning is not None
    assert warning.startswith("rk2118 float DOES NOT COMPUTE THIS MODEL: it keeps 6 % of the predictions; ")
    assert broken("rk2118", "float", accuracy(0.99)) is None
    assert broken("rk3588", "int8", accuracy(0.93)) is None
    assert broken("rk3588", "int8", None) is None
