"""The page fetches nothing, runs nothing, and shows hostile names as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgevit.reporting import charts, html, markdown
from edgevit.reporting.build import build
from edgevit.reporting.content import Report
from edgevit.reporting.sections import Timing, Verdict
from edgevit.reporting.text import clean
from edgevit.run.reading import read_run
from tests.reporting import runs

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> javascript:alert(3) {{ 7*7 }} | `x` [a](b)"
LONG = "w" * 5000


class Tags(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(page: str) -> Tags:
    """Parse a page."""
    tags = Tags()
    tags.feed(page)
    return tags


def everywhere(value: Any, text: str) -> Any:
    """A JSON value with every string in it followed by `text`, but the ones that code looks up by."""
    if isinstance(value, dict):
        return {key: each if key in KEPT else everywhere(each, text) for key, each in value.items()}
    if isinstance(value, list):
        return [everywhere(each, text) for each in value]
    return value + text if isinstance(value, str) else value


KEPT = {
    "stage",
    "step",
    "key",
    "folder",
    "inputs",
    "gate",
    "artefact",
    "target",
    "effects",
    "kind",
    "boards",
    "recipe",
}


def hostile(folder: Path, text: str) -> Report:
    """A report on a run whose every free text is `text`."""
    names = [f"{index}{text}.jpg" for index in range(200)]
    manifest = runs.write_run(folder, labels=[f"{name}{text}" for name in "abcd"], names=names)
    runs.diagnosed(manifest["results"][0])
    manifest["results"][0]["diagnosis"]["effects"][f"embed{text}"] = 0.1
    manifest["command"] = ["convert", text]
    manifest["reductions"] = [
        {
            "stage": "smaller",
            "accuracy": manifest["results"][0]["accuracy"],
            "details": {"what": "heads gone", "notes": ["and a note"]},
        }
    ]
    runs.save(folder, everywhere(manifest, text))
    runs.save_bench(folder, "rock", everywhere(runs.bench("deit-rk3588-int8.rknn"), text))
    return build([read_run(folder)])


@pytest.fixture(params=[EVIL, LONG], ids=["evil", "long"])
def text(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_no_text_becomes_an_element_or_an_attribute(tmp_path: Path, text: str) -> None:
    tags = parse(html.render(hostile(tmp_path, text)))
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "iframe", "object", "embed", "form", "base", "video", "audio"}
    for tag, attributes in tags.found:
        assert not [name for name in attributes if name.startswith("on")], tag
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/jpeg;base64,")
        if "href" in attributes:
            assert re.fullmatch(r"#[\w-]+|data:,", str(attributes["href"])), attributes


def test_hostile_names_are_still_readable(tmp_path: Path) -> None:
    page = html.render(hostile(tmp_path, EVIL))
    shown = parse(page).text
    assert "<script>alert(1)</script>" in shown
    assert "{{ 7*7 }}" in shown


def test_the_page_names_no_address_to_fetch(tmp_path: Path) -> None:
    runs.write_run(tmp_path)
    page = html.render(build([read_run(tmp_path)]))
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_markdown_keeps_its_tables_and_no_html(tmp_path: Path) -> None:
    text = markdown.render(hostile(tmp_path, EVIL))
    outside = re.sub(r"^(`{3,})\n.*?\n\1$", "", text, flags=re.M | re.S)
    assert "<script" not in outside
    assert "<img" not in outside
    width = 0
    for line in outside.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert cells == width or not cells or not width, line
        width = cells


def test_json_holds_the_same_numbers_and_no_pictures(tmp_path: Path) -> None:
    runs.write_run(tmp_path)
    report = build([read_run(tmp_path)])
    values = json.loads(json.dumps(report.to_json()))
    first = values["runs"][0]["artefacts"][0]
    assert values["format"] == 2
    assert first["loss"]["drop_points"] == 2.0
    assert first["verdict"]["answer"] == "can't tell"
    assert "thumbnail" not in first["changes"]["shown"][0]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a\x1b[31m\nb", "a [31m b"),
        ("left\u202eright", "left right"),
        ("broken\udcff", "broken"),
        (None, ""),
        ("x" * 300, "x" * 160 + "\u2026" + "x" * 79),
    ],
)
def test_clean_leaves_one_printable_line(given: str | None, shown: str) -> None:
    assert clean(given) == shown


def test_ticks_are_round_and_inside() -> None:
    axis = charts.Axis(80.3, 87.9)
    assert charts.ticks(axis) == [82.0, 84.0, 86.0]
    assert charts.ticks(charts.Axis(1.0, 1.0)) == [1.0]


def test_interval_puts_zero_left_of_the_limit() -> None:
    verdict = Verdict("can't tell", "", 0.5, "")
    picture = str(charts.interval(-1.0, 2.0, 0.5, verdict))
    zero, limit = (float(found) for found in re.findall(r'<line x1="([\d.]+)%"', picture))
    assert zero < limit
    assert float(re.findall(r'<circle cx="([\d.]+)%"', picture)[0]) == limit


def test_too_few_samples_draw_no_histogram() -> None:
    few = Timing("1", 3, 1.0, 1.0, 1.0, 1.0, None, (1.0, 1.1, 1.2))
    assert charts.histogram(few) is None
