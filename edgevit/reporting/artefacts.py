"""One artefact's part of the report. A section that can't be made is named among the omissions, nothing fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from edgevit.reporting import changes, tensors
from edgevit.reporting.boards import bench, loss
from edgevit.reporting.content import Artefact
from edgevit.reporting.sections import Bench, Gain, Latency, Loss, Placement
from edgevit.reporting.text import clean, count, lines, megabytes, milliseconds, pairs, two_digits
from edgevit.reporting.verdict import verdict
from edgevit.run.reading import RunFiles
from edgevit.run.results import Result

Found = TypeVar("Found")
Attempt = Callable[[str, Callable[[], Any], Any], Any]
FLOAT_BYTES = 4


class Omissions(list[str]):
    """Sections left out, a line each: the files that they are made from are gone or damaged."""

    def attempt(self, section: str, make: Callable[[], Found], otherwise: Found) -> Found:
        """`make()`, or `otherwise` and a line that says why not."""
        try:
            return make()
        except LookupError as error:
            self.append(clean(f"{section}: {error.args[0] if error.args else error}", 300))
            return otherwise


def artefact(
    run: RunFiles, result: Result, names: tuple[str, ...] | None, anchor: str, omissions: Omissions
) -> Artefact:
    """Everything known about one result."""
    title = clean(result.title, 80)

    def attempt(section: str, make: Callable[[], Found], otherwise: Found) -> Found:
        return omissions.attempt(f"{title}, {section}", make, otherwise)

    board = run.manifest.boards.get(result.target)
    how = clean(result.how, 120) or "unlabelled"
    found = loss(result.accuracy, how)
    benches = [bench(each) for each in run.benches if each.artefact == result.artefact]
    placement = tensors.placement(result.details, board)
    latency = tensors.latency(result.latency)
    return Artefact(
        anchor=anchor,
        target=clean(result.target, 60),
        precision=clean(result.precision, 40),
        file=clean(result.artefact),
        bytes=result.bytes,
        sha256=clean(result.sha256, 80),
        seconds=result.seconds,
        peak_memory_mb=result.peak_memory_mb,
        board=clean(board.name if board else result.target, 80),
        how=how,
        verdict=verdict(decisive(found, benches), run.manifest.configuration.max_drop, result.gate),
        loss=found,
        board_losses=tuple(each.loss for each in benches if each.loss is not None and on_board(each)),
        gate=result.gate,
        gains=gains(result, run.manifest.model.parameters, placement, latency, benches),
        placement=placement,
        delegate=tensors.delegate(result.details),
        latency=latency,
        benches=tuple(benches),
        heat=tensors.heat(result.diagnosis, result.plan.sixteen_bit),
        massive=clean(result.diagnosis.explanation, 600) or None if result.diagnosis else None,
        precision_plan=tensors.precision(result),
        rewrites=tuple(
            (clean(each.name, 60), clean(each.what, 300)) for each in result.rewrites if each.changed
        ),
        parity=result.parity,
        tools=pairs(result.tools),
        warnings=lines([*result.notes, *result.details.warnings]),
        size=size_note(run, result),
        **changed(run, result, found, names, attempt),
    )


def size_note(run: RunFiles, result: Result) -> str:
    """The artefact's own input size where it isn't the original model's."""
    own, original = result.preprocessing.size, run.manifest.model.preprocessing.size
    return "" if own == original else f"{own[0]} x {own[1]}"


def changed(
    run: RunFiles, result: Result, found: Loss | None, names: tuple[str, ...] | None, attempt: Attempt
) -> dict[str, Any]:
    """Classes and images that changed, where accuracy was measured."""
    answers, pictures = None, None
    if found is not None and run.manifest.model.gives.first.means.show is not None:
        pictures = attempt("images", lambda: changes.pictures(run, result), None)
    elif found is not None:
        answers = attempt("classes and images", lambda: changes.predictions(run, result, names), None)
    if answers is None:
        return {"classes": None, "changes": None, "pictures": pictures}
    return {
        "classes": changes.classes(answers),
        "changes": attempt("images", lambda: changes.changes(run, result, answers), None),
        "pictures": None,
    }


def decisive(local: Loss | None, benches: list[Bench]) -> Loss | None:
    """The accuracy that decides: measured on a board where that was done on as many images, else the run's."""
    measured = [each.loss for each in benches if each.loss is not None and on_board(each)]
    enough = [each for each in measured if local is None or each.n >= local.n]
    return max(enough, key=lambda each: each.n) if enough else local


def on_board(bench: Bench) -> bool:
    """Whether a measurement is a board's; the host's never poses as one."""
    return bench.how.startswith("measured on")


def gains(
    result: Result,
    parameters: int,
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
    chosen = result.search.chosen if result.search else None
    ratio = chosen.latency_ratio if chosen else None
    if chosen and ratio is not None:
        slower = f"{1 / ratio:.2f}x as slow as" if 0 < ratio < 1 else f"{ratio:.2f}x as fast as"
        found.append(Gain(f"{slower} float", "same machine", clean(chosen.how, 60)))
    if latency is not None:
        interval = f"{two_digits(latency.low)} to {two_digits(latency.high)} ms an image on one core"
        found.append(Gain(f"\u2248 {two_digits(latency.ms)} ms", interval, latency.label))
    size, original = result.bytes, FLOAT_BYTES * parameters
    if size:
        smaller = f"{original / size:.1f}x smaller than {megabytes(original)} of float weights"
        found.append(Gain(megabytes(size), smaller if original > size else "file size", "file size"))
    if placement is not None:
        where = "every layer on the NPU"
        if placement.cpu_ops:
            left = sum(op[1] for op in placement.cpu_ops)
            where = f"{left} layers on the CPU"
        found.append(Gain(f"{count(placement.cycles)} cycles", where, placement.how))
    return tuple(found)
