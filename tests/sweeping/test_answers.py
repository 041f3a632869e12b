"""Which points a grid has, which are left out unmade, and what is answered to a budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgevit.errors import InputError
from edgevit.sweeping.answer import answer
from edgevit.sweeping.early import Outlook, fewer, over_budget, why_skip
from edgevit.sweeping.grid import Point, points
from edgevit.sweeping.looking import in_turn
from edgevit.sweeping.rows import Row, with_best
from edgevit.sweeping.spec import parse, read_spec

POINT = Point("deit", None, None, None, "rk3588", "int8")
ROW = Row(
    POINT, run="runs/a", drop=0.3, low=0.1, high=0.5, unit="points of top-1", n=744, ms=20.0, ms_low=12.0,
    ms_high=30.0, ms_from="edgevit estimate", cycles=1_300_000, megabytes=7.0,
)  # fmt: skip


def row(**values: Any) -> Row:
    point = replace(POINT, resolution=values.pop("resolution", None))
    return replace(ROW, point=point, **values)


def spec(**values: Any) -> Any:
    usual = {"models": ["deit"], "targets": ["rk3588"], "validation": "val"}
    return parse(usual | values, "cannot sweep")


def test_a_grid_has_every_combination_once() -> None:
    found = points(
        spec(**{"resolution": ["own", 192, "192"], "prune-heads": [0, 3], "targets": ["rk3588", "tflite"]})
    )
    assert len(found) == 2 * 2 * 2 and len(set(found)) == len(found)
    assert len({point.folder for point in found}) == len(found)
    assert found[0] == POINT and found[0].variant == "deit"
    assert found[-1].variant == "deit, 192 px, 3 heads less"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": []}, "models: "),
        ({"fps": -1.0}, "fps: input should be greater than 0"),
        ({"resolutions": [192]}, "unknown key resolutions. Rename it to resolution"),
        ({"precisions": ["int4"]}, "there is no precision int4; there are float, int8"),
        ({"resolution": list(range(32, 2000))}, "its grid has 1968 points. Sweep 1000 or fewer"),
        ({"max-drop": "much"}, "max-drop: "),
    ],
)
def test_a_wrong_spec_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        spec(**values)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_says_the_same_with_paths_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("")
    (tmp_path / "sweep.toml").write_text(
        'models = ["net.py:build", "deit"]\ntargets = ["rk3588"]\nvalidation = "val"\n'
        'resolution = [192, "own"]\nfps = 30.0\n'
    )
    found = read_spec(tmp_path / "sweep.toml")
    assert found.validation == str(tmp_path / "val")
    assert found.models == [str(tmp_path / "net.py:build"), "deit"]
    assert found.budget_ms == pytest.approx(33.3, abs=0.1)
    for content in ("models = [", "\xff", "models = 3"):
        (tmp_path / "sweep.toml").write_text(content, encoding="latin-1")
        with pytest.raises(InputError, match="cannot read the sweep"):
            read_spec(tmp_path / "sweep.toml")
    with pytest.raises(InputError, match="no such file"):
        read_spec(tmp_path / "absent.toml")


def test_a_point_that_loses_more_and_costs_more_is_not_made() -> None:
    worse = Outlook(POINT, drop_low=1.0, ms=25.0, ms_low=15.0, cycles=2_000_000)
    assert why_skip(worse, [ROW]) == f"{POINT.name} costs no more and loses less"
    assert why_skip(replace(worse, drop_low=0.4), [ROW]) is None  # the intervals touch
    assert why_skip(replace(worse, ms=10.0), [ROW]) is None  # it may be faster
    assert why_skip(replace(worse, ms=None, cycles=1_000_000), [ROW]) is None
    assert why_skip(replace(worse, ms=None), [ROW]) is not None
    other = replace(worse, point=replace(POINT, target="rk3566"))
    assert why_skip(other, [ROW]) is None  # another target is another question
    assert why_skip(replace(worse, ms=None, cycles=None), [ROW]) is None  # nothing is known of its cost


def test_what_misses_the_time_even_at_best_is_not_made_but_for_the_nearest() -> None:
    slow = Outlook(POINT, 0.0, ms=60.0, ms_low=40.0)
    slower = Outlook(replace(POINT, resolution="384"), 0.0, ms=90.0, ms_low=70.0)
    fine = Outlook(replace(POINT, resolution="160"), 0.0, ms=20.0, ms_low=10.0)
    assert set(over_budget([slow, slower, fine], 33.0)) == {slow.point, slower.point}
    assert set(over_budget([slow, slower], 33.0)) == {slower.point}
    assert over_budget([slow, slower], None) == {}


def test_the_best_are_beaten_by_none_of_their_target() -> None:
    cheap = row(drop=0.9, ms=10.0, resolution="160")
    bad = row(drop=0.9, ms=30.0, resolution="384")
    elsewhere = replace(ROW, point=replace(POINT, target="rk3566"), drop=2.0, ms=50.0)
    marked = with_best([ROW, cheap, bad, elsewhere])
    assert [each.best for each in marked] == [True, True, False, True]


def test_a_budget_is_answered_with_how_sure_it_is() -> None:
    cheap = row(
        drop=0.9, low=0.5, high=1.4, ms=10.0, ms_low=6.0, ms_high=15.0, resolution="160", run="runs/b"
    )
    told = answer([ROW, cheap], "rk3588", 25.0, 40.0, None)
    assert told == (
        "rk3588: deit int8 loses 0.30 [0.1, 0.5] points of top-1 (n = 744), between 12 and 30 ms (edgevit "
        "estimate): can't promise 40 frames a second; measure with edgevit bench runs/a --board "
        "ssh://USER@BOARD. deit, 160 px int8 loses 0.90 [0.5, 1.4] points of top-1 (n = 744), between 6 and 15 ms "
        "(edgevit estimate), keeps it even at the slow end"
    )
    assert "is kept, even at the slow end" in answer([ROW], "rk3588", 40.0, None, None)
    assert "was not reached" in answer([ROW], "rk3588", 5.0, None, None)
    assert "4.0 times as fast" in answer([ROW], "rk3588", 5.0, None, None)
    assert "nothing within 5 MB" in answer([ROW], "rk3588", None, None, 5.0)
    unknown = replace(ROW, ms=None, ms_from="")
    assert "is not known, there is no estimate" in answer([unknown], "rk3588", 5.0, None, None)
    assert answer([Row(POINT, "failed", "no")], "rk3588", 5.0, None, None) == "rk3588: nothing was made"


def test_a_boards_measurement_is_no_estimate() -> None:
    measured = replace(ROW, ms=20.0, ms_low=20.0, ms_high=21.0, ms_from="measured on Rock 5B")
    told = answer([measured], "rk3588", 25.0, None, None)
    assert told.endswith("20.0 ms (measured on Rock 5B): 25 ms an image is kept")


@pytest.mark.parametrize(
    ("images", "before"),
    [(0, []), (999, []), (1000, [200]), (5000, [200, 1000]), (50_000, [200, 1000, 5000])],
)
def test_few_images_come_first_where_there_are_many(images: int, before: list[int]) -> None:
    assert fewer(images) == before


def test_versions_that_share_a_step_are_not_begun_together() -> None:
    grid = points(spec(**{"resolution": ["own", 192, 160], "prune-heads": [0, 3, 6]}))
    names = [(size or "224", heads or "0") for _, size, heads, _ in in_turn([each.version for each in grid])]
    assert names[:4] == [("224", "0"), ("224", "3"), ("192", "0"), ("160", "0")]
    assert sorted(names) == sorted((each.resolution or "224", each.heads or "0") for each in grid)
