"""Measurements that `edgevit bench` left in a run directory, matched to the artefacts they are of."""

from __future__ import annotations

from typing import Any

from edgevit.report.sections import Bench, Loss, Timing
from edgevit.report.text import clean, lines, number, pairs, required, whole

MAX_SAMPLES = 2000


def loss(accuracy: object, how: str) -> Loss | None:
    """An accuracy record of evaluate.Accuracy; None where nothing was measured. Raises LookupError when damaged."""
    if not isinstance(accuracy, dict):
        return None
    drop = number(accuracy.get("drop_points"))
    n = whole(accuracy.get("n"))
    if n < 1:
        raise LookupError("it is of no images")
    return Loss(
        how=how,
        n=n,
        agreement=required(accuracy, "agreement"),
        agreement_low=required(accuracy, "agreement_low"),
        agreement_high=required(accuracy, "agreement_high"),
        kl=required(accuracy, "kl"),
        cosine=required(accuracy, "cosine"),
        top1=number(accuracy.get("top1")),
        top5=number(accuracy.get("top5")),
        reference_top1=number(accuracy.get("reference_top1")),
        drop=drop,
        low=None if drop is None else required(accuracy, "drop_low"),
        high=None if drop is None else required(accuracy, "drop_high"),
        lost=None if drop is None else whole(accuracy.get("lost")),
        won=None if drop is None else whole(accuracy.get("won")),
    )


def bench(values: dict[str, Any]) -> Bench:
    """One measurement. Raises LookupError or the like when damaged."""
    latency = values.get("latency") or {}
    settings = settings_of(values, latency.get("threads") or {})
    how = clean(values.get("how"), 120) or "unlabelled"
    return Bench(
        artefact=clean(values.get("artefact")),
        where=clean(values.get("where"), 120),
        how=how,
        machine=machine(values.get("machine")),
        best="" if values.get("core_masks") else setting_of(latency.get("best")),
        sweep=tuple(
            timing(name, each)
            for name, each in settings.items()
            if isinstance(each, dict) and number(each.get("mean", each.get("p50"))) is not None
        ),
        first_ms=number(values.get("first_ms")),
        load_ms=number(values.get("load_ms")),
        peak_rss_mb=number(values.get("peak_rss_mb")),
        clocks=clocks(values.get("clocks")),
        loss=loss(values.get("accuracy"), how),
        same_as_local=same(values.get("same_as_local")),
        versions=pairs(values.get("versions")),
        warnings=lines(values.get("warnings")),
        written=clean(values.get("written"), 40),
    )


def settings_of(values: dict[str, Any], threads: dict[str, Any]) -> dict[str, Any]:
    """Timings by setting, in words: an NPU's cores where they were tried, else the processor's threads."""
    masks = values.get("core_masks")
    if masks:
        return {
            f"NPU cores {clean(name, 40)}" if name[:1].isdigit() else clean(name, 60): each
            for name, each in masks.items()
        }
    if str(values.get("artefact")).endswith(".rknn"):
        return dict.fromkeys(("NPU",), next(iter(threads.values()), None))
    return {setting_of(name): each for name, each in threads.items()}


def setting_of(threads: object) -> str:
    """A thread count in words."""
    name = clean(threads, 20)
    return f"{name} thread{'' if name == '1' else 's'}" if name else ""


def timing(setting: str, values: dict[str, Any]) -> Timing:
    """One setting's latencies in milliseconds."""
    samples = values.get("samples_ms") or ()
    known = (number(each) for each in samples[:MAX_SAMPLES])
    return Timing(
        setting=setting,
        n=whole(values.get("n")),
        p50=number(values.get("p50")),
        p90=number(values.get("p90")),
        p99=number(values.get("p99")),
        mean=number(values.get("mean")),
        throughput=number(values.get("throughput")),
        samples=tuple(each for each in known if each is not None),
    )


def machine(values: object) -> str:
    """The machine in a line: model, processor, cores, memory."""
    if not isinstance(values, dict):
        return ""
    cores, memory = number(values.get("cores")), number(values.get("memory_mb"))
    parts = [clean(values.get("model"), 80), clean(values.get("cpu"), 80)]
    parts += [f"{cores:.0f} cores" if cores else "", f"{memory / 1024:.1f} GiB" if memory else ""]
    return ", ".join(dict.fromkeys(part for part in parts if part))


def clocks(values: object) -> str:
    """Whether the clocks were pinned, and whether the machine throttled."""
    if not isinstance(values, dict):
        return "clocks not recorded: they may have floated"
    text = "clocks pinned" if values.get("pinned") else "clocks floated"
    return f"{text}; the machine throttled" if values.get("throttled") else text


def same(values: object) -> str | None:
    """How the board's answers compare with the local evaluation's."""
    if not isinstance(values, dict):
        return None
    n, agree = whole(values.get("n")), whole(values.get("agree"))
    difference = number(values.get("max_logit_difference"))
    text = f"same predictions as the local evaluation on {agree} of {n} images"
    return text if difference is None else f"{text}, largest logit difference {difference:.2g}"
