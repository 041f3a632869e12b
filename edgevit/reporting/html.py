"""The report as one HTML file: no script, nothing fetched, everything from the user's files escaped."""

from __future__ import annotations

import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgevit.outputs.kinds import KINDS, columns_of
from edgevit.outputs.kinds import unit_of as lost_unit
from edgevit.reporting import charts
from edgevit.reporting.content import Report
from edgevit.reporting.sections import Heat, LayerBar, Loss, Placement, Verdict
from edgevit.reporting.text import megabytes, points, two_digits
from edgevit.reporting.verdict import tenths

FOLDER = Path(__file__).parent
TONES = {"yes": "yes", "no": "no", "can't tell": "unsure"}
WORDS = {"yes": "Yes", "no": "No", "can't tell": "Can\u2019t tell"}
LEGEND = (
    ("convolutions", "convolutions and matrix products"),
    ("norms", "normalisation"),
    ("attention", "attention"),
    ("elementwise", "elementwise, copies"),
    ("cpu", "on the CPU"),
)
SHOWN_LAYERS = 10


def render(report: Report) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["capitalize_first"] = capitalize_first
    return environment.get_template("template.html").render(
        report=report,
        several=len(report.runs) > 1,
        total=sum(len(run.artefacts) for run in report.runs),
        style=Markup((FOLDER / "style.css").read_text(encoding="utf-8")),
        charts=charts,
        tone=tone,
        word=word,
        megabytes=megabytes,
        tenths=tenths,
        shade=shade,
        scaled=scaled,
        decimals=decimals,
        unit_of=unit_of,
        two_digits=two_digits,
        limit_points=points,
        lost_unit=lost_unit,
        figures=figures,
        costliest=costliest,
        legend=LEGEND,
    )


def figures(loss: Loss) -> list[str]:
    """What an output's kind is told by, less what stands in larger letters."""
    means = KINDS[loss.kind]
    if means.classifies:
        return [f"same answer as float on {100 * loss.agreement:.1f}\u202f%"]
    return [f"{each.title} {each.value(loss)}" for each in columns_of(loss, means) if each.value(loss)]


def tone(verdict: Verdict) -> str:
    """The CSS class of an answer."""
    return TONES[verdict.answer]


def word(verdict: Verdict) -> str:
    """An answer as a reader sees it."""
    return WORDS[verdict.answer]


def capitalize_first(text: str) -> str:
    """A sentence's first letter in upper case, a full stop at its end left to the template."""
    return (text[:1].upper() + text[1:]).rstrip(".")


def shade(value: float, heat: Heat) -> str:
    """Opacity of a cell, 0 to 0.85: by the square root, so that the middle can be told from nothing."""
    largest = max((each for row in heat.cells for each in row if each is not None), default=0.0)
    share = max(0.0, value) / largest if largest > 0 else 0.0
    return f"{0.85 * math.sqrt(share):.3f}"


def decimals(value: float | None) -> str:
    """A number in a cell, empty where it isn't known."""
    return "" if value is None else f"{value:.2f}"


def unit_of(heat: Heat) -> tuple[float, str]:
    """What a heat map's numbers are multiplied by, and what that makes them: few digits, whatever the size."""
    largest = max((value for _, value in heat.worst), default=0.0)
    return (1e3, "thousandths") if largest >= 5e-4 else (1e6, "millionths")


def scaled(value: float, heat: Heat) -> str:
    """A KL in the heat map's unit, as short as a cell allows; 0 where it rounds to nothing."""
    number = unit_of(heat)[0] * value
    if abs(number) < 0.005:
        return "0"
    return f"{number:.2f}" if abs(number) < 10 else f"{number:.0f}"


def costliest(placement: Placement) -> list[LayerBar]:
    """The layers that take longest, by estimated time where there is one, else by cycles."""
    return sorted(placement.layers, key=lambda bar: (-(bar.ms or 0.0), -bar.cycles))[:SHOWN_LAYERS]
