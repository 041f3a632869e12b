"""Pictures as inline SVG. Coordinates are percentages, so that text keeps its size on a phone; colours are CSS.

Every text goes through MarkupSafe's escaping.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from edgevit.reporting.content import Pareto, Stage
from edgevit.reporting.sections import Heat, LayerBar, Timing, Verdict

BINS = 48
HAIR = 0.05  # percent of the width below which a layer is not drawn
TALL, LABELS = 64, 16  # pixels of the errors by tensor, and of the names of blocks under them
APART = 9.0  # percent of the width that such a name takes
BLOCK = re.compile(r"(?:^|[/.])([A-Za-z_]+[./]\d+)(?=[/.])")  # as modules are named: "blocks.3", "layers/3"


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` onto 0 to 100 percent."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Position in percent, kept inside the picture."""
        span = self.high - self.low
        share = (value - self.low) / span if span > 0 else 0.5
        return round(100 * min(1.0, max(0.0, share)), 3)


def tag(name: str, text: object = "", **attributes: object) -> Markup:
    """An element with escaped attributes; `class_` and `x_y` become class and x-y."""
    named = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    written = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in named)
    return Markup("<{}{}>{}</{}>").format(Markup(name), written, escape(text), Markup(name))


def picture(height: int, label: str, parts: Iterable[Markup], class_: str = "chart") -> Markup:
    """An SVG as wide as its place."""
    body = Markup("").join(parts)
    return tag("svg", body, class_=class_, width="100%", height=height, role="img", aria_label=label)


def percent(value: float) -> str:
    """A coordinate."""
    return f"{value:.3f}%"


def around(values: Sequence[float], margin: float = 0.08) -> Axis:
    """An axis that holds these values with room on both sides."""
    low, high = min(values), max(values)
    room = margin * (high - low) or 0.5
    return Axis(low - room, high + room)


def ticks(axis: Axis, wanted: int = 5) -> list[float]:
    """Round values inside an axis."""
    span = axis.high - axis.low
    if not span > 0:
        return [axis.low]
    step = 10 ** math.floor(math.log10(span / wanted))
    step *= next((factor for factor in (1, 2, 5, 10) if span / (step * factor) <= wanted), 10)
    first = math.ceil(axis.low / step)
    return [number * step for number in range(first, math.floor(axis.high / step) + 1)]


def short(value: float) -> str:
    """A tick's label."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g} k"
    return f"{value:.4g}".replace("-", "\u2212")


def interval(low: float, high: float, drop: float, verdict: Verdict) -> Markup:
    """The loss with its interval against nothing lost and the limit."""
    axis = around([low, high, 0.0, verdict.limit], 0.12)
    zero, limit = axis.at(0.0), axis.at(verdict.limit)
    parts = [
        tag("rect", x="0", y=18, width=percent(limit), height=10, class_="allowed"),
        tag("line", x1=percent(zero), x2=percent(zero), y1=14, y2=32, class_="zero"),
        tag("line", x1=percent(limit), x2=percent(limit), y1=14, y2=32, class_="limit"),
        tag("rect", x=percent(axis.at(low)), y=20, width=percent(axis.at(high) - axis.at(low)), height=6, rx=3,
            class_="span"),
        tag("circle", cx=percent(axis.at(drop)), cy=23, r=6, class_="dot"),
        tag("text", "0", x=percent(zero), y=10, class_="tick", text_anchor=anchor(zero, -1)),
        tag("text", f"limit {verdict.limit:g}", x=percent(limit), y=10, class_="tick",
            text_anchor=anchor(limit, 1)),
    ]  # fmt: skip
    return picture(36, f"loss {drop:.2f} points, 95 % interval {low:.2f} to {high:.2f}", parts)


def anchor(position: float, side: int) -> str:
    """How a label sits at its line: away from the other line, inwards at the edges."""
    if side < 0:
        return "end" if position > 3 else "start"
    return "start" if position < 85 else "end"


def waterfall_axis(stages: Sequence[Stage]) -> Axis:
    """One axis of top-1 in percent for all rows."""
    values = [100 * each.top1 for each in stages]
    first = values[0]
    for each in stages:
        if each.low is not None and each.high is not None:
            values += [first - each.high, first - each.low]
    return around(values)


def step(stage: Stage, axis: Axis, first: float) -> Markup:
    """One row: from the top-1 before it to the one after it, with the interval against the float model.

    `first` is the float model's top-1 in percent.
    """
    before, after = axis.at(100 * stage.before), axis.at(100 * stage.top1)
    left, width = min(before, after), abs(after - before)
    kind = "gain" if after > before else "loss"
    parts = [tag("line", x1=percent(axis.at(first)), x2=percent(axis.at(first)), y1=0, y2=28,
                 class_="zero")]  # fmt: skip
    if stage.kind != "float":
        parts.append(tag("rect", x=percent(left), y=8, width=percent(width), height=12, class_=kind))
    if stage.low is not None and stage.high is not None:
        ends = percent(axis.at(first - stage.high)), percent(axis.at(first - stage.low))
        parts.append(tag("line", x1=ends[0], x2=ends[1], y1=14, y2=14, class_="whisker"))
        parts += [tag("line", x1=end, x2=end, y1=10, y2=18, class_="whisker") for end in ends]
    parts.append(tag("circle", cx=percent(after), cy=14, r=4.5, class_=f"level {stage.kind}"))
    return picture(28, f"{stage.name}: {100 * stage.top1:.2f} %", parts)


def axis_row(axis: Axis, unit: str) -> Markup:
    """Ticks under rows that share an axis."""
    marks = [
        tag("text", short(value) + unit, x=percent(axis.at(value)), y=12, class_="tick", text_anchor="middle")
        for value in ticks(axis)
        if 4 < axis.at(value) < 96
    ]
    return picture(16, "axis", marks)


def layers(bars: Sequence[LayerBar], by: str) -> Markup:
    """All layers in order, each as wide as its cycles or its estimated time."""
    amounts = [float(each.cycles if by == "cycles" else each.ms or 0.0) for each in bars]
    total = sum(amounts)
    parts, position = [], 0.0
    for each, amount in zip(bars, amounts, strict=True):
        width = 100 * amount / total if total > 0 else 0.0
        if width > HAIR:
            value = f"{each.cycles:,} cycles" if by == "cycles" else f"{amount:.3f} ms"
            note = tag("title", f"{each.index} {each.op} {each.name}: {value}")
            place = {"x": percent(position), "width": percent(width)}
            parts.append(tag("rect", note, y=0, height=30, class_=f"layer {each.part}", **place))
        position += width
    return picture(30, f"layers by {by}", parts, "chart strip")


def errors(heat: Heat) -> Markup:
    """The error at every tensor in the order in which they are computed; 16 bits in another colour."""
    largest = max((value for _, value, _ in heat.order), default=0.0) or 1.0
    width, parts, block, written = 100 / max(1, len(heat.order)), list[Markup](), "", -APART
    for index, (name, value, kept) in enumerate(heat.order):
        left, height = index * width, max(1.0, TALL * max(0.0, value) / largest)
        note = tag("title", f"{name}: {value:.2g}{', kept in 16 bits' if kept else ''}")
        place = {"x": percent(left), "width": percent(width)}
        parts.append(tag("rect", note, y=round(TALL - height, 2), height=round(height, 2),
                         class_="error kept" if kept else "error", **place))  # fmt: skip
        found = BLOCK.search(name)
        if found and found[1] != block and written + APART <= left <= 100 - APART:
            block, written = found[1], left
            parts.append(tag("line", x1=percent(left), x2=percent(left), y1=0, y2=TALL, class_="grid"))
            parts.append(tag("text", block[-12:], x=percent(left), y=TALL + 12, class_="tick"))
    return picture(TALL + LABELS, f"error at {len(heat.order)} tensors in order", parts)


def stack(parts: Sequence[tuple[str, float]]) -> Markup:
    """A bar cut into named parts."""
    total, position, drawn = sum(value for _, value in parts), 0.0, []
    for name, value in parts:
        width = 100 * value / total if total > 0 else 0.0
        note = tag("title", f"{name}: {value:.2f} ms")
        safe = name if name.isalpha() else "other"
        drawn.append(tag("rect", note, x=percent(position), y=0, width=percent(width), height=22,
                         class_=f"layer {safe}"))  # fmt: skip
        position += width
    return picture(22, "parts of the latency", drawn, "chart strip")


def histogram(timing: Timing) -> Markup | None:
    """How the latencies are spread, with the percentiles; None with too few samples."""
    if len(timing.samples) < 10:
        return None
    ordered = sorted(timing.samples)
    axis = around([ordered[0], ordered[int(0.995 * (len(ordered) - 1))]], 0.04)
    counts = [0] * BINS
    for value in ordered:
        counts[min(BINS - 1, int(axis.at(value) / 100 * BINS))] += 1
    tallest, width = max(counts), 100 / BINS
    parts = [
        tag("rect", x=percent(index * width + 0.15), y=round(90 - 74 * each / tallest, 2),
            width=percent(width - 0.3), height=round(74 * each / tallest, 2), class_="bin")
        for index, each in enumerate(counts)
        if each
    ]  # fmt: skip
    for name, mark in (("p50", timing.p50), ("p90", timing.p90), ("p99", timing.p99)):
        if mark is None:
            continue
        x = percent(axis.at(mark))
        parts += [
            tag("line", x1=x, x2=x, y1=13, y2=90, class_="limit"),
            tag("text", name, x=x, y=10, class_="tick", text_anchor="middle"),
        ]
    parts += [
        tag(
            "text",
            f"{short(value)} ms",
            x=percent(axis.at(value)),
            y=104,
            class_="tick",
            text_anchor="middle",
        )
        for value in ticks(axis)
        if 4 < axis.at(value) < 94
    ]
    return picture(108, f"latencies of {timing.n} runs", parts)


def scatter(plot: Pareto) -> Markup:
    """Loss against cost; points numbered as in the table beside, the best ones joined."""
    across = around([point.cost for point in plot.points], 0.12)
    down = around([end for point in plot.points for end in (point.drop, point.low or 0.0, point.high or 0.0)])

    def y(value: float) -> float:
        return round(12 + 2.1 * (100 - down.at(value)), 2)

    parts = []
    for value in ticks(down, 4):
        parts.append(tag("line", x1="0", x2="100%", y1=y(value), y2=y(value), class_="grid"))
        parts.append(tag("text", short(value), x=2, y=y(value) - 3, class_="tick"))
    for value in ticks(across, 4):
        x = percent(across.at(value))
        parts.append(tag("text", short(value), x=x, y=238, class_="tick", text_anchor="middle"))
    best = [point for point in plot.points if point.best]
    for one, other in zip(best, best[1:], strict=False):
        parts.append(tag("line", x1=percent(across.at(one.cost)), x2=percent(across.at(other.cost)),
                         y1=y(one.drop), y2=y(other.drop), class_="front"))  # fmt: skip
    for number, point in enumerate(plot.points, start=1):
        x = percent(across.at(point.cost))
        if point.low is not None and point.high is not None:
            parts.append(tag("line", x1=x, x2=x, y1=y(point.low), y2=y(point.high), class_="whisker"))
        kind = "point best" if point.best else "point"
        parts.append(tag("circle", tag("title", point.label), cx=x, cy=y(point.drop), r=9, class_=kind))
        parts.append(
            tag("text", number, x=x, y=y(point.drop) + 4, class_=f"{kind} number", text_anchor="middle")
        )
    return picture(244, f"points lost against {plot.unit}", parts)
