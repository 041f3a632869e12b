"""Runs on the board: measures one artefact there. Python 3.7, standard library, numpy and a runtime.

    python3 on_board.py request.json
    python3 on_board.py request.json ready    says only whether that could be done, before the rest is copied

Beside it lie board_runtime.py and, as runtime.py, the backend's own `Runtime` that runs the artefact. Says JSON
lines on standard output: {"progress": [done, total, note]}, {"warning": text}, {"error": {...}}, and last
{"result": {...}}. What libraries print goes to standard error.

What is timed is one inference as an application sees it: handing the input over, running, taking the output.
Preparing the pixels is not in it.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

if __package__:
    from edgevit.backends.board_runtime import Refused, Values, cores, read
else:  # on a board the files lie side by side
    from board_runtime import Refused, Values, cores, read  # type: ignore[import-not-found,no-redef]

Infer = Callable[[Any], Any]
MAX_SAMPLES = 2000
PROGRESS_SECONDS = 0.5


def main() -> None:
    """Measure what the request asks for."""
    global channel
    channel = os.dup(1)
    os.dup2(2, 1)  # native libraries print where they like
    work = Path(sys.argv[1]).resolve().parent
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        if sys.argv[2:] == ["ready"]:
            say(result=ready(request, work))
        else:
            say(result=measure(request, work))
    except Refused as error:
        say(error=error.values)
    except MemoryError:
        say(error={"why": "out of memory"})


channel = 1


def say(**words: Any) -> None:
    """One line to the host; a broken connection ends the runner."""
    data = json.dumps(words).encode() + b"\n"
    while data:
        data = data[os.write(channel, data) :]


def ready(request: Values, work: Path) -> bool:
    """Whether runtime and numpy are here."""
    from runtime import Runtime  # type: ignore[import-not-found]

    Runtime(work / request["artefact"], request).ready()
    require_numpy()
    return True


def require_numpy() -> None:
    """Raises Refused where numpy can't be imported."""
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise Refused(str(error), missing="numpy") from None


def measure(request: Values, work: Path) -> Values:
    """Everything, in the order that disturbs least: clocks, latency, accuracy, clocks again."""
    from runtime import Runtime  # type: ignore[import-not-found]

    model = Runtime(work / request["artefact"], request)
    found: Values = {"machine": machine(), "versions": versions(model), "warnings": []}
    before = clocks(request)
    if request["pin"]:
        pin(request, work)
        before = {**before, "pinned_at": clocks(request)["domains"]}
    found.update(latency(model, request, work))
    after = clocks(request)
    found["clocks"] = {
        "pinned": request["pin"],
        "before": before,
        "after": after,
        "throttled": throttled(request, after),
    }
    if request["pixels"]:
        found["images"] = classify(model, request, work, found["latency"]["best"])
    # After everything else: to collect them slows an inference down.
    found["layer_times"] = model.layer_times() or None
    found["tensors"] = dump(model, request, work) if request["dump"] else False
    return found


# Latency.


def latency(model: Any, request: Values, work: Path) -> Values:
    """Every setting timed; load and first inference of the first one, in a fresh process."""
    import_runtime(model)
    image: Any = None
    sweep: Values = {}
    found: Values = {}
    settings = model.settings()
    for number, setting in enumerate(settings):
        begun = time.perf_counter()
        model.open(setting)
        load_ms = 1000 * (time.perf_counter() - begun)
        if image is None:
            image = first_image(model, request, work)
        given = model.prepare(image)
        begun = time.perf_counter()
        model.infer(given)
        first_ms = 1000 * (time.perf_counter() - begun)
        note = f"{number + 1} of {len(settings)}"
        samples = timed(model.infer, given, request, note)
        sweep[setting] = summary(samples)
        if not found:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            found = {"load_ms": load_ms, "first_ms": first_ms, "peak_rss_mb": peak}
        model.close()
    best = min(sweep, key=lambda setting: sweep[setting]["p50"])
    if model.sets_threads:
        return {**found, "latency": {"threads": sweep, "best": best}, "core_masks": None}
    first = sweep[settings[0]]
    apart = model.side_by_side()
    if apart:
        sweep[f"one model each, {len(apart)} side by side"] = side_by_side(model, request, given)
    masks = sweep if len(sweep) > 1 else None
    return {**found, "latency": {"threads": {"1": first}, "best": "1"}, "core_masks": masks}


def import_runtime(model: Any) -> None:
    """What would fail cryptically later is said first."""
    require_numpy()
    if model.warning():
        say(warning=model.warning())


def first_image(model: Any, request: Values, work: Path) -> Any:
    """The first validation image, or noise where there is none."""
    import numpy as np

    if request["pixels"]:
        return np.load(str(work / request["pixels"]), mmap_mode="r")[0]
    shape = request["shape"] or model.shape()
    return np.random.RandomState(0).randint(0, 256, shape, np.uint8)


def timed(infer: Infer, given: Any, request: Values, note: str) -> list[float]:
    """Milliseconds of each inference: at least `runs` of them and for at least `seconds`."""
    for _ in range(request["warm_up"]):
        infer(given)
    samples: list[float] = []
    clock = time.perf_counter
    begun = said = clock()
    while True:
        start = clock()
        infer(given)
        end = clock()
        samples.append(1000 * (end - start))
        if len(samples) >= request["runs"] and end - begun >= request["seconds"]:
            return samples
        if end - said >= PROGRESS_SECONDS:
            said = end
            say(progress=[len(samples), 0, f"time setting {note}"])


def summary(samples: list[float], side_by_side_s: float = 0.0) -> Values:
    """Percentiles by nearest rank, in ms; inferences per second."""
    ordered, n = sorted(samples), len(samples)

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * n) - 1)]

    mean = sum(samples) / n
    step = -(-n // MAX_SAMPLES)
    return {
        "n": n,
        "min": ordered[0],
        "p50": rank(0.50),
        "p90": rank(0.90),
        "p99": rank(0.99),
        "mean": mean,
        "throughput": n / side_by_side_s if side_by_side_s else 1000 / mean,
        "samples_ms": [round(sample, 4) for sample in samples[::step]],
    }


def side_by_side(model: Any, request: Values, given: Any) -> Values:
    """One session on each core, all at once; the throughput is theirs together."""
    sessions: list[Any] = []
    for setting in model.side_by_side():
        if sessions:
            sessions.append(sessions[0].another(setting))
        else:
            model.open(setting)
            sessions.append(model)
    series: list[list[float]] = [[] for _ in sessions]
    failures: list[Refused] = []

    def work(session: Any, samples: list[float]) -> None:
        try:
            samples += timed(session.infer, given, {**request, "warm_up": 0}, "side by side")
        except Refused as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=each) for each in zip(sessions, series)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    for session in reversed(sessions):  # the first one owns the weights
        session.close()
    if failures:
        raise failures[0]
    return summary([sample for samples in series for sample in samples], took)


# Accuracy and tensors.


def classify(model: Any, request: Values, work: Path, best: str) -> int:
    """Write outputs.npy float32 [n, classes] for the validation images."""
    import numpy as np

    pixels = np.load(str(work / request["pixels"]), mmap_mode="r")
    model.open(best if model.sets_threads else model.settings()[0])
    rows, said = [], 0.0
    for number, image in enumerate(pixels):
        rows.append(np.array(model.real(model.infer(model.prepare(image))), np.float32))
        if time.perf_counter() - said >= PROGRESS_SECONDS:
            said = time.perf_counter()
            say(progress=[number + 1, len(pixels), "classify"])
    model.close()
    np.save(str(work / "outputs.npy"), np.stack(rows))
    return len(rows)


def dump(model: Any, request: Values, work: Path) -> bool:
    """Write tensors.npz of the first image: arrays named 0, 1, ... and their names in the array `names`."""
    import numpy as np

    if model.why_no_tensors():
        kind = Path(request["artefact"]).suffix
        say(warning=model.why_no_tensors() + ": --dump-tensors has no effect on a " + kind)
        return False
    found = model.tensors(first_image(model, request, work))
    arrays = {str(number): value for number, value in enumerate(found.values())}
    np.savez(str(work / "tensors.npz"), names=np.array(list(found)), **arrays)
    return True


# The machine.


def number(path: str | None) -> int | None:
    """A small file's whole number, or None."""
    text = read(path) if path else None
    return int(text) if text and text.isdigit() else None


def field(path: str, name: str) -> str:
    """The first value of a "name : value" line."""
    found = re.search("^" + name + r"\s*:\s*(.*)$", read(path) or "", re.MULTILINE)
    return found.group(1) if found else ""


def machine() -> Values:
    """What this is."""
    memory = re.search(r"MemTotal:\s*(\d+)", read("/proc/meminfo") or "")
    cpu = field("/proc/cpuinfo", "model name") or platform.machine()
    return {
        "model": read("/proc/device-tree/model") or cpu,
        "cpu": cpu,
        "cores": cores(),
        "memory_mb": int(memory.group(1)) // 1024 if memory else None,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions(model: Any) -> Values:
    """Of the packages that are there, and of what the runtime knows besides."""
    found: Values = {"kernel": platform.release(), "python": platform.python_version()}
    for name in model.request["packages"]:
        version = package_version(name)
        if version:
            found[name] = version
    found.update(model.versions())
    return found


def package_version(name: str) -> str | None:
    """The version of an installed package, or None."""
    if sys.version_info >= (3, 8):
        from importlib import metadata

        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None
    import pkg_resources

    try:
        return str(pkg_resources.get_distribution(name).version)
    except pkg_resources.DistributionNotFound:
        return None


# Clocks: paths and values are the board profile's.


def clocks(request: Values) -> Values:
    """Governors, frequencies, temperatures in degrees, cooling devices at work, the firmware's own flags."""
    domains = {}
    for name, clock in (request["clocks"] or policies()).items():
        domains[name] = {
            "governor": read(clock["governor"]),
            "frequency": number(clock["read_frequency"]),
            "unit": clock["unit"],
        }
    cooling = {}
    for each in sorted(Path("/sys/class/thermal").glob("cooling_device*")):
        kind, state = read(str(each / "type")), number(str(each / "cur_state"))
        if kind and state is not None and not re.search("fan|pwm", kind, re.IGNORECASE):
            cooling[f"{kind} ({each.name})"] = state
    return {"domains": domains, "temperature": temperatures(request), "cooling": cooling, "flags": flags()}


def policies() -> Values:
    """What every Linux says of its processor's clocks, for profiles that name none."""
    folders = sorted(Path("/sys/devices/system/cpu/cpufreq").glob("policy*"))
    return {
        "cpu_" + folder.name: {
            "governor": str(folder / "scaling_governor"),
            "read_frequency": str(folder / "scaling_cur_freq"),
            "unit": "kHz",
        }
        for folder in folders
    }


def temperatures(request: Values) -> Values:
    """Degrees Celsius by sensor."""
    paths = request["temperature"] or [
        str(p) for p in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    ]
    found = {}
    for path in paths:
        value = read(path)
        if value and value.lstrip("-").isdigit():
            found[read(str(Path(path).with_name("type"))) or path] = int(value) / 1000
    return found


def flags() -> int | None:
    """A Raspberry Pi's get_throttled: bits 0 to 3 say what is happening now."""
    try:
        done = subprocess.run(
            ["vcgencmd", "get_throttled"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5
        )
        return int(done.stdout.decode().split("=")[1], 16)
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None


def throttled(request: Values, after: Values) -> bool | None:
    """Whether something held the clocks down at the end; None where nothing tells."""
    held = []
    for name, now in after["domains"].items():
        wanted = (request["clocks"] or {}).get(name, {}).get("pin")
        if request["pin"] and wanted and now["frequency"]:
            held.append(now["frequency"] < 0.99 * wanted)
    if after["flags"] is not None:
        held.append(bool(after["flags"] & 0xF))
    held += [state > 0 for state in after["cooling"].values()]
    return any(held) if held else None


def pin(request: Values, work: Path) -> None:
    """Set the profile's frequencies. What was there is noted first: the guard writes it back, whatever happens."""
    wanted = {
        name: clock
        for name, clock in request["clocks"].items()
        if clock["pin"] and clock["set_frequency"] and read(clock["governor"])
    }
    absent = [name for name, clock in request["clocks"].items() if clock["pin"] and name not in wanted]
    if not wanted:
        raise Refused("none of the profile's clock files is here", clocks="absent")
    if absent:
        say(warning="not pinned, the board has no such clock: " + ", ".join(absent))
    saved = []
    for clock in wanted.values():
        speed, governor = read(clock["set_frequency"]), read(clock["governor"])
        saved += [[clock["set_frequency"], speed]] if speed and speed.isdigit() else []
        saved.append([clock["governor"], governor])
    note = work / "restore.json"
    draft = work / "restore.draft"
    draft.write_text(json.dumps(saved), encoding="utf-8")
    draft.rename(note)
    for name, clock in wanted.items():
        put(clock["governor"], "userspace")
        put(clock["set_frequency"], str(clock["pin"]))
        time.sleep(0.05)
        now = number(clock["read_frequency"])
        if now is not None and abs(now - clock["pin"]) > 0.01 * clock["pin"]:
            say(warning="{} was set to {} and runs at {} {}".format(name, clock["pin"], now, clock["unit"]))


def put(path: str, value: str) -> None:
    """Write a value to a file of the system; through sudo where this user may not."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(file, value.encode() + b"\n")
        finally:
            os.close(file)
    except PermissionError:
        try:
            done = subprocess.run(
                ["sudo", "-n", "tee", path],
                input=value.encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            allowed = done.returncode == 0
        except OSError:  # no sudo
            allowed = False
        if not allowed:
            raise Refused(f"{path} may not be written by this user", clocks="permission") from None
    except OSError as error:
        raise Refused(f"{path} does not take {value}: {error.strerror}", clocks="refused") from None


if __name__ == "__main__":
    main()
