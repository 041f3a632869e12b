"""Measurements that `edgevit bench` left in a run directory, matched to the artefacts they are of."""

from __future__ import annotations

from edgevit.backends.registry import by_suffix
from edgevit.metrics.classification import Accuracy
from edgevit.reporting.sections import Bench, LayerTime, Loss, Timing
from edgevit.reporting.text import clean, lines, pairs
from edgevit.run import measurement
from edgevit.run.measurement import Clocks, Machine, Measurement, SameAsLocal

MAX_SAMPLES = 2000
SHOWN_LAYERS = 10


def loss(accuracy: Accuracy | None, how: str) -> Loss | None:
    """An accuracy with the label of how it was obtained; None where nothing was measured."""
    return None if accuracy is None or accuracy.n < 1 else Loss(**accuracy.to_json(), how=how)


def bench(record: Measurement) -> Bench:
    """One measurement."""
    how = clean(record.how, 120) or "unlabelled"
    return Bench(
        artefact=clean(record.artefact),
        where=clean(record.where, 120),
        how=how,
        machine=machine(record.machine),
        best="" if record.core_masks else setting_of(record.latency.best),
        sweep=tuple(
            timing(name, each)
            for name, each in settings_of(record).items()
            if each.mean is not None or each.p50 is not None
        ),
        first_ms=record.first_ms,
        load_ms=record.load_ms,
        peak_rss_mb=record.peak_rss_mb,
        clocks=clocks(record.clocks),
        loss=loss(record.accuracy, how),
        same_as_local=same(record.same_as_local),
        versions=pairs(record.versions),
        warnings=lines(record.warnings),
        written=clean(record.written, 40),
        slowest=tuple(
            LayerTime(clean(each.name), clean(each.op, 40), clean(each.target, 20), each.us, each.cycles)
            for each in sorted(record.layers, key=lambda each: -each.us)[:SHOWN_LAYERS]
        ),
        layers_us=sum(each.us for each in record.layers),
    )


def settings_of(record: Measurement) -> dict[str, measurement.Timing]:
    """Timings by setting, in words: an NPU's cores where they were tried, else the processor's threads."""
    threads = record.latency.threads
    if record.core_masks:
        return {
            f"NPU cores {clean(name, 40)}" if name[:1].isdigit() else clean(name, 60): each
            for name, each in record.core_masks.items()
        }
    backend = by_suffix(record.artefact)
    if backend is not None and backend.for_npu:
        return dict(zip(["NPU"], threads.values(), strict=False))
    return {setting_of(name): each for name, each in threads.items()}


def setting_of(threads: str | None) -> str:
    """A thread count in words."""
    name = clean(threads, 20)
    return f"{name} thread{'' if name == '1' else 's'}" if name else ""


def timing(setting: str, record: measurement.Timing) -> Timing:
    """One setting's latencies in milliseconds."""
    return Timing(
        setting=setting,
        n=record.n,
        p50=record.p50,
        p90=record.p90,
        p99=record.p99,
        mean=record.mean,
        throughput=record.throughput,
        samples=record.samples_ms[:MAX_SAMPLES],
    )


def machine(record: Machine | None) -> str:
    """The machine in a line: model, processor, cores, memory."""
    if record is None:
        return ""
    parts = [clean(record.model, 80), clean(record.cpu, 80)]
    parts += [f"{record.cores} cores" if record.cores else ""]
    parts += [f"{record.memory_mb / 1024:.1f} GiB" if record.memory_mb else ""]
    return ", ".join(dict.fromkeys(part for part in parts if part))


def clocks(record: Clocks | None) -> str:
    """Whether the clocks were pinned, and whether the machine throttled."""
    if record is None:
        return "clocks not recorded: they may have floated"
    text = "clocks pinned" if record.pinned else "clocks floated"
    return f"{text}; the machine throttled" if record.throttled else text


def same(record: SameAsLocal | None) -> str | None:
    """How the board's answers compare with the local evaluation's."""
    if record is None:
        return None
    text = f"same answers as the local evaluation on {record.agree} of {record.n} images"
    difference = record.max_output_difference
    return text if difference is None else f"{text}, largest output difference {difference:.2g}"
