"""One artefact's part of the report. A section that can't be made is named among the omissions, nothing fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from edgevit.report import changes, tensors
from edgevit.report.boards import bench, loss
from edgevit.report.content import Artefact
from edgevit.report.sections import Bench, Gain, Latency, Loss, Placement
from edgevit.report.text import clean, count, lines, megabytes, milliseconds, number, pairs, two_digits, whole
from edgevit.report.verdict import verdict
from edgevit.run.reading import RunFiles, as_dict, export_of, step_of

Found = TypeVar("Found")
Attempt = Callable[[str, Callable[[], Any], Any], Any]
FLOAT_BYTES = 4
# What a damaged or older record makes code raise that reads it.
DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


class Omissions(list[str]):
    """Sections left out, a line each."""

    def attempt(self, section: str, make: Callable[[], Found], otherwise: Found) -> Found:
        """`make()`, or `otherwise` and a line that says why not."""
        try:
            return make()
        except DAMAGE as error:
            why = error.args[0] if isinstance(error, LookupError) and error.args else error
            reason = (
                f"{why}"
                if isinstance(why, str) and " " in why
                else "its record is damaged or of an older edgevit"
            )
            self.append(clean(f"{section}: {reason}", 300))
            return otherwise


def artefact(
    run: RunFiles, result: dict[str, Any], names: tuple[str, ...] | None, anchor: str, omissions: Omissions
) -> Artefact:
    """Everything known about one result."""
    title = clean(f"{result['target']} {result['precision']}", 80)

    def attempt(section: str, make: Callable[[], Found], otherwise: Found) -> Found:
        return omissions.attempt(f"{title}, {section}", make, otherwise)

    step, board = step_of(run, result), as_dict(as_dict(run.manifest.get("boards")).get(result["target"]))
    how = clean(result.get("how"), 120) or "unlabelled"
    found = attempt("accuracy", lambda: loss(result.get("accuracy"), how), None)
    benches = benches_of(run, result, title, omissions)
    details = as_dict(result.get("details"))
    placement = attempt("placement", lambda: tensors.placement(details, board), None)
    latency = attempt("estimated latency", lambda: tensors.latency(result.get("latency")), None)
    max_drop = number(as_dict(run.manifest.get("configuration")).get("max_drop"))
    gate = result.get("gate") if result.get("gate") in ("met", "missed") else None
    return Artefact(
        anchor=anchor,
        board=clean(board.get("name"), 80) or clean(result["target"], 60),
        how=how,
        verdict=verdict(decisive(found, benches), max_drop, gate),
        loss=found,
        board_losses=tuple(each.loss for each in benches if each.loss is not None and on_board(each)),
        gate=gate,
        gains=gains(run, result, placement, latency, benches),
        placement=placement,
        delegate=attempt("partitions", lambda: tensors.delegate(details), None),
        latency=latency,
        benches=tuple(benches),
        warnings=lines(details.get("warnings")),
        **file_of(result),
        **changed(run, step, found, names, attempt),
        **explained(result, step, export_of(run, step), attempt),
    )


def file_of(result: dict[str, Any]) -> dict[str, Any]:
    """The artefact itself."""
    return {
        "target": clean(result["target"], 60),
        "precision": clean(result["precision"], 40),
        "file": clean(result.get("artefact")),
        "bytes": whole(result.get("bytes")),
        "sha256": clean(result.get("sha256"), 80),
        "seconds": number(result.get("seconds")) or 0.0,
        "peak_memory_mb": whole(result.get("peak_memory_mb")),
    }


def changed(
    run: RunFiles, step: dict[str, Any], found: Loss | None, names: tuple[str, ...] | None, attempt: Attempt
) -> dict[str, Any]:
    """Classes and images that changed, where accuracy was measured."""
    answers = None
    if found is not None:
        answers = attempt("classes and images", lambda: changes.predictions(run, step, names), None)
    if answers is None:
        return {"classes": None, "changes": None}
    return {
        "classes": attempt("classes", lambda: changes.classes(answers), None),
        "changes": attempt("images", lambda: changes.changes(run, step, answers), None),
    }


def explained(
    result: dict[str, Any], step: dict[str, Any], export: dict[str, Any], attempt: Attempt
) -> dict[str, Any]:
    """Why int8 is hard for the model, what was planned against it, what proves the exact steps."""
    diagnosis, metrics = as_dict(result.get("diagnosis")), as_dict(export.get("metrics"))
    words = diagnosis.get("words") or as_dict(metrics.get("int8")).get("words")
    return {
        "heat": attempt("error by layer", lambda: tensors.heat(diagnosis), None),
        "massive": clean(words, 600) or None,
        "precision_plan": attempt("precision plan", lambda: tensors.precision(result, step, export), None),
        "rewrites": attempt("rewrites", lambda: rewrites(metrics), ()),
        "parity": number(metrics.get("max_logit_difference")),
        "tools": pairs(as_dict(step.get("metrics")).get("tools")),
    }


def decisive(local: Loss | None, benches: list[Bench]) -> Loss | None:
    """The accuracy that decides: measured on a board where that was done on as many images, else the run's."""
    measured = [each.loss for each in benches if each.loss is not None and on_board(each)]
    enough = [each for each in measured if local is None or each.n >= local.n]
    return max(enough, key=lambda each: each.n) if enough else local


def on_board(bench: Bench) -> bool:
    """Whether a measurement is a board's; the host's never poses as one."""
    return bench.how.startswith("measured on")


def benches_of(run: RunFiles, result: dict[str, Any], title: str, omissions: Omissions) -> list[Bench]:
    """Measurements of this artefact."""
    mine = [each for each in run.benches if each.get("artefact") == result.get("artefact")]
    made = [
        omissions.attempt(f"{title}, bench/{each.get('file')}", lambda each=each: bench(each), None)  # type: ignore[misc]
        for each in mine
    ]
    return [each for each in made if each is not None]


def gains(
    run: RunFiles,
    result: dict[str, Any],
    placement: Placement | None,
    latency: Latency | None,
    benches: list[Bench],
) -> tuple[Gain, ...]:
    """What the conversion bought: speed first, then size, then work."""
    found = []
    for each in benches:
        best = each.fastest
        if best is not None:
            note = f"{best.word} of {best.n} runs, {best.setting}; {each.clocks}"
            found.append(Gain(milliseconds(best.typical), note, each.how))
    chosen = as_dict(as_dict(result.get("search")).get("chosen"))
    ratio = number(chosen.get("latency_ratio"))
    if ratio is not None:
        slower = f"{1 / ratio:.2f}x as slow as" if 0 < ratio < 1 else f"{ratio:.2f}x as fast as"
        found.append(Gain(f"{slower} float", "same machine", clean(chosen.get("how"), 60)))
    if latency is not None:
        interval = f"{two_digits(latency.low)} to {two_digits(latency.high)} ms an image on one core"
        found.append(Gain(f"\u2248 {two_digits(latency.ms)} ms", interval, latency.label))
    size, parameters = whole(result.get("bytes")), number(run.manifest["model"].get("parameters"))
    if size:
        original = FLOAT_BYTES * (parameters or 0)
        smaller = f"{original / size:.1f}x smaller than {megabytes(original)} of float weights"
        found.append(Gain(megabytes(size), smaller if original > size else "file size", "file size"))
    if placement is not None:
        where = "every layer on the NPU"
        if placement.cpu_ops:
            left = sum(op[1] for op in placement.cpu_ops)
            where = f"{left} layers on the CPU"
        found.append(Gain(f"{count(placement.cycles)} cycles", where, placement.how))
    return tuple(found)


def rewrites(metrics: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Exact rewrites that changed the graph: name and what they did."""
    made = [each for each in metrics.get("rewrites") or () if each.get("changed")]
    return tuple((clean(each.get("name"), 60), clean(each.get("what"), 300)) for each in made)
