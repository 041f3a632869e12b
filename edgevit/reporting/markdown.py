"""The report as Markdown: the same content, for a pull request or a wiki."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edgevit.outputs.kinds import KINDS
from edgevit.outputs.kinds import unit_of as lost_unit
from edgevit.reporting.content import Artefact, Pareto, Report, Run
from edgevit.reporting.html import capitalize_first, decimals, scaled, unit_of, word
from edgevit.reporting.sections import Bench, Loss
from edgevit.reporting.text import megabytes, points, two_digits
from edgevit.reporting.verdict import tenths

SPECIAL = re.compile(r"([\\`*_\[\]|~])")
SHOWN_TENSORS = 10


def render(report: Report) -> str:
    """The whole text."""
    lines = [f"# {escape(report.title)}", "", *verdicts(report), "", *map(escape_item, report.cautions), ""]
    for run in report.runs:
        lines += [
            *waterfall(run),
            *(line for each in run.artefacts for line in artefact(each, run)),
            *made(run),
        ]
    for plot in report.paretos:
        lines += pareto(plot)
    return "\n".join(lines).rstrip() + "\n"


def escape(value: object) -> str:
    """Text that Markdown and the HTML it allows leave alone."""
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\1", text)


def escape_item(value: object) -> str:
    """A list's item."""
    return f"- {escape(value)}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table with an empty line after it."""
    lines = ["| " + " | ".join(map(escape, columns)) + " |", "|" + "---|" * len(columns)]
    return [*lines, *("| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows), ""]


def verdicts(report: Report) -> list[str]:
    """What was lost, what was gained, can it be shipped."""
    rows, reasons = [], []
    for run in report.runs:
        for each in run.artefacts:
            name = each.title if len(report.runs) == 1 else f"{run.name}: {each.title}"
            bought = "; ".join(f"{gain.value} ({gain.note}; {gain.how})" for gain in each.gains)
            rows.append((name, word(each.verdict), lost(each.loss), bought))
            limit = f"The limit of {points(each.verdict.limit)} is {each.verdict.limit_from}."
            reasons.append(
                f"- **{escape(name)}: {word(each.verdict)}.** {escape(capitalize_first(each.verdict.because))}. "
                + escape(limit)
            )
            reasons += [
                f"- {escape(name)} on the board: {escape(lost(other))}" for other in each.board_losses
            ]
    return [*table(("artefact", "can I ship it?", "lost", "gained"), rows), *reasons]


def lost(loss: Loss | None) -> str:
    """The loss in a cell."""
    if loss is None:
        return "not measured"
    same = f"{KINDS[loss.kind].same} on {100 * loss.agreement:.1f} %, n = {loss.n}, {loss.how}"
    if loss.drop_points is None or loss.drop_low is None or loss.drop_high is None:
        return same
    return f"{loss.drop_points:.2f} {lost_unit(loss)} [{tenths(loss.drop_low)}, {tenths(loss.drop_high)}]; {same}"


def waterfall(run: Run) -> list[str]:
    """Right answers stage by stage."""
    rows = [
        (
            each.name,
            f"{100 * each.top1:.2f} %",
            ""
            if each.drop is None or each.low is None or each.high is None
            else f"{each.drop:.2f} [{tenths(each.low)}, {tenths(each.high)}]",
            each.how,
        )
        for each in run.waterfall
    ]
    title = [f"## Where the accuracy went: {escape(run.name)}", ""]
    notes = [f"- {escape(each.name)}: {escape(each.note)}" for each in run.waterfall if each.note]
    columns = ("step", run.metric, "lost against float [95 %]", "how")
    return [*title, *table(columns, rows), *notes, ""] if rows else []


def artefact(each: Artefact, run: Run) -> Iterator[str]:
    """One artefact's sections."""
    yield from (
        f"## {escape(each.title)}",
        "",
        f"`{each.file.replace('`', '')}`, {megabytes(each.bytes)}",
        "",
    )
    if each.changes is not None:
        yield from (f"### Images whose prediction changed: {each.changes.total} of {each.changes.n}", "")
        rows = [
            (
                image.name,
                image.truth or "",
                f"{image.before} {100 * image.before_probability:.1f} %",
                f"{image.after} {100 * image.after_probability:.1f} %",
                image.kind if image.truth else "",
            )
            for image in each.changes.shown
        ]
        if rows:
            yield from table(("image", "it is", "float", "now", ""), rows)
    if each.pictures is not None:
        yield from (f"### {each.pictures.title}: {each.pictures.total} of {each.pictures.n}", "")
        if each.pictures.rows:
            yield from table(("image", ""), [(row.name, row.words) for row in each.pictures.rows])
    if each.classes is not None and each.classes.changed:
        both = (*each.classes.worst, *each.classes.best)
        yield from ("### Classes that lost or won most", "")
        counts = [(row.name, row.n, row.before, row.after, row.lost, row.won) for row in both]
        yield from table(("class", "n", "right before", "after", "lost", "won"), counts)
    yield from tensors(each, run)
    yield from speed(each)
    yield from proof(each)


def tensors(each: Artefact, run: Run) -> Iterator[str]:
    """Massive activations, error by tensor, precision."""
    if each.massive:
        yield from ("### Massive activations", "", f"{escape(capitalize_first(each.massive))}.", "")
    if each.heat is not None:
        yield from (f"### Error that int8 causes, by tensor ({unit_of(each.heat)[1]}, {run.divergence})", "")
        rows = [(name, scaled(value, each.heat)) for name, value in each.heat.worst[:SHOWN_TENSORS]]
        yield from table(("tensor", run.divergence), rows)
    plan = each.precision_plan
    if plan is not None:
        yield from ("### Precision", "", f"{escape(capitalize_first(plan.description))}.", "")
        if plan.explanation:
            yield from (f"{escape(capitalize_first(plan.explanation))}.", "")
        if plan.sixteen_bit:
            yield from ("In 16 bits: " + escape(", ".join(plan.sixteen_bit)) + ".", "")
        if plan.trials:
            columns = ("way to quantize", "cost", "points expected", "95 % below", "how", "")
            tried = [
                (t.label, t.cost, decimals(t.drop), decimals(t.upper), t.how, t.state) for t in plan.trials
            ]
            yield from table(columns, tried)


def speed(each: Artefact) -> Iterator[str]:
    """Placement, estimated latency, measurements."""
    if each.placement is not None:
        yield from ("### Where it runs", "", f"{each.placement.cycles:,} cycles ({each.placement.how}).", "")
        for op, count, kilobytes, why in each.placement.cpu_ops:
            yield escape_item(f"{count} {op} on the CPU ({kilobytes} KB): {why}")
        yield "" if each.placement.cpu_ops else "Every layer runs on the NPU.\n"
    if each.delegate is not None:
        yield from ("### Where it runs", "", f"{each.delegate.partitions} XNNPACK partitions.", "")
    if each.latency is not None or each.benches:
        yield from ("### Latency", "")
    if each.latency is not None:
        parts = ", ".join(f"{name} {ms:.2f}" for name, ms in each.latency.parts)
        interval = (
            f"{two_digits(each.latency.low)} to {two_digits(each.latency.high)} ms an image on one core"
        )
        yield from (escape(f"{interval} ({each.latency.label}; parts in ms: {parts})"), "")
    for bench in each.benches:
        yield from measurement(bench)


def measurement(bench: Bench) -> list[str]:
    """One bench file."""
    rows = [
        (row.setting, row.n, *(decimals(ms) for ms in (row.p50, row.p90, row.p99, row.mean)))
        for row in bench.sweep
    ]
    head = escape(f"{bench.where}: {bench.how}; {bench.clocks}; {bench.machine}")
    layers = [
        f"{each.name or each.op} on the {each.target}: {each.us:,} µs ({each.cycles:,} cycles by the compiler)"
        for each in bench.slowest[:3]
    ]
    notes = [escape_item(text) for text in (bench.same_as_local, *layers, *bench.warnings) if text]
    return [head, "", *table(("setting", "runs", "p50 ms", "p90", "p99", "mean"), rows), *notes, ""]


def proof(each: Artefact) -> Iterator[str]:
    """Parity and rewrites."""
    yield from ("### Proof that exact steps were exact", "")
    if each.parity is not None:
        yield from (f"Exported graph against torch: largest output difference {each.parity:.1e}.", "")
    yield from (f"- {escape(name)}: {escape(what)}" for name, what in each.rewrites)
    yield from (escape_item(text) for text in each.warnings)
    yield ""


def made(run: Run) -> list[str]:
    """Command, versions, warnings, what was left out."""
    fence = "`" * (3 + max((len(found) for found in re.findall("`+", run.command)), default=0))
    lines = [f"## How it was made: {escape(run.name)}", ""]
    if run.command:
        lines += [f"The command, {run.command_from}:", "", fence, run.command, fence, ""]
    lines += [escape(f"{run.model}: {run.source}. Recipe {run.recipe}. On {run.host}, {run.written}."), ""]
    lines += [escape(", ".join(f"{name} {value}" for name, value in run.versions)), ""]
    for title, texts in (("Warnings and notes", run.notes + run.warnings), ("Left out", run.omissions)):
        if texts:
            lines += [f"### {title}", "", *map(escape_item, texts), ""]
    return lines


def pareto(plot: Pareto) -> list[str]:
    """A plot's points as a table."""
    rows = [(p.label, f"{p.cost:.4g}", f"{p.drop:.2f}", "yes" if p.best else "") for p in plot.points]
    title = f"## Loss against {plot.title.lower()} ({plot.how})"
    return [
        escape(title),
        "",
        *table(("artefact", plot.unit, "lost", "unbeaten"), rows),
    ]
