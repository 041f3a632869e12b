"""Runs on the board: measures one artefact there. One file, Python 3.7, standard library, numpy and a runtime.

    python3 on_board.py request.json

The runtime is rknnlite (rknn-toolkit-lite2) for .rknn, ai_edge_litert or tflite_runtime for .tflite,
onnxruntime for .onnx. Says JSON lines on standard output: {"progress": [done, total, note]},
{"warning": text}, {"error": {...}}, and last {"result": {...}}. What libraries print goes to standard error.

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
from typing import Any, Callable, Dict

Values = Dict[str, Any]
Infer = Callable[[Any], Any]
MAX_SAMPLES = 2000
PROGRESS_SECONDS = 0.5
LIBRARIES = tuple(
    folder + name
    for folder in (
        "/usr/lib/",
        "/usr/lib64/",
        "/usr/lib/aarch64-linux-gnu/",
        "/usr/local/lib/",
        "/oem/usr/lib/",
    )
    for name in ("librknnrt.so", "librknnmrt.so")
)
DRIVER = ("/sys/kernel/debug/rknpu/version", "/proc/rknpu/version", "/sys/module/rknpu/version")
PACKAGES = ("rknn-toolkit-lite2", "ai-edge-litert", "tflite-runtime", "onnxruntime", "numpy")


class Refused(Exception):
    """Something that can't be done here; its values go to the host as {"error": values}."""

    def __init__(self, why: str, **values: Any) -> None:
        super().__init__(why)
        self.values = {"why": why, **values}


def main() -> None:
    """Measure what the request asks for."""
    global channel
    channel = os.dup(1)
    os.dup2(2, 1)  # native libraries print where they like
    work = Path(sys.argv[1]).resolve().parent
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
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


def measure(request: Values, work: Path) -> Values:
    """Everything, in the order that disturbs least: clocks, latency, accuracy, clocks again."""
    kind = Path(request["artefact"]).suffix
    model: Any = {".rknn": Rknn, ".tflite": Litert, ".onnx": Onnx}[kind](work / request["artefact"], request)
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
    found["tensors"] = dump(model, request, work) if request["dump"] else False
    return found


# Models. Each opens with a setting: a number of threads for processors, a core mask for NPUs. Then `prepare` turns
# pixels uint8 [height, width, channels] into input, `infer` runs that, `real` turns what came out into logits.


class Model:
    """An artefact and how its input is made: mean and std in units of 0..255."""

    def __init__(self, path: Path, request: Values) -> None:
        self.path, self.request = str(path), request

    def settings(self) -> list[str]:
        """Thread counts to try."""
        counts = self.request["threads"] or thread_counts(cores())
        return [str(count) for count in counts]

    def normalised(self, pixels: Any) -> Any:
        """float32 [1, height, width, channels]"""
        import numpy as np

        mean, std = (np.asarray(self.request[name], np.float32) for name in ("mean", "std"))
        return ((pixels.astype(np.float32) - mean) / std)[None]

    def close(self) -> None:
        """Let go of what `open` took."""


class Litert(Model):
    """LiteRT, or TensorFlow Lite's last runtime."""

    def open(self, setting: str, **options: Any) -> None:
        self.interpreter = self.runtime()(self.path, num_threads=int(setting), **options)
        self.interpreter.allocate_tensors()
        self.give = self.interpreter.get_input_details()[0]
        self.take = self.interpreter.get_output_details()[0]

    def runtime(self) -> Any:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            try:
                from tflite_runtime.interpreter import Interpreter
            except ImportError as error:
                raise Refused(str(error), missing="litert") from None
        return Interpreter

    def shape(self) -> tuple[int, ...]:
        """Height, width, channels."""
        return tuple(int(size) for size in self.give["shape"][1:])

    def prepare(self, pixels: Any) -> Any:
        import numpy as np

        image = self.normalised(pixels)
        if self.give["dtype"] == np.float32:
            return image
        scale, zero = self.give["quantization"]
        limits = np.iinfo(self.give["dtype"])
        return np.clip(np.round(image / scale + zero), limits.min, limits.max).astype(self.give["dtype"])

    def infer(self, given: Any) -> Any:
        self.interpreter.set_tensor(self.give["index"], given)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.take["index"])

    def real(self, output: Any) -> Any:
        """Logits float32 [classes]."""
        import numpy as np

        scale, zero = self.take["quantization"]
        if self.take["dtype"] != np.float32:
            output = (output.astype(np.float32) - zero) * np.float32(scale)
        return output.reshape(-1)

    def tensors(self, pixels: Any) -> Values:
        """Every tensor of one inference, by name; the delegates are off, or they would hide what they fuse."""
        self.open("1", experimental_preserve_all_tensors=True)
        self.infer(self.prepare(pixels))
        found = {}
        for each in self.interpreter.get_tensor_details():
            try:
                found[each["name"]] = self.interpreter.get_tensor(each["index"])
            except ValueError:  # nothing was computed for it
                continue
        return found


class Onnx(Model):
    """ONNX Runtime on the processor."""

    def open(self, setting: str, path: str | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise Refused(str(error), missing="onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = int(setting)
        self.session = onnxruntime.InferenceSession(
            path or self.path, options, providers=["CPUExecutionProvider"]
        )
        self.give = self.session.get_inputs()[0]

    def shape(self) -> tuple[int, ...]:
        channels, height, width = self.give.shape[1:]
        return height, width, channels

    def prepare(self, pixels: Any) -> Any:
        import numpy as np

        return np.ascontiguousarray(self.normalised(pixels).transpose(0, 3, 1, 2))

    def infer(self, given: Any) -> Any:
        return self.session.run(None, {self.give.name: given})[0]

    def real(self, output: Any) -> Any:
        return output.reshape(-1)

    def tensors(self, pixels: Any) -> Values:
        """Every tensor that the host made an output of."""
        self.open("1", str(Path(self.path).with_name(self.request["dump"])))
        values = self.session.run(None, {self.give.name: self.prepare(pixels)})
        return {each.name: value for each, value in zip(self.session.get_outputs(), values)}


class Rknn(Model):
    """Rockchip's NPU through rknn-toolkit-lite2. Written against 2.5.0's interface; not yet run on silicon."""

    def settings(self) -> list[str]:
        """Core masks, cumulative: 0, 0_1, 0_1_2. RK356x and the small ones have one core and take no mask."""
        count = self.request["npu_cores"]
        return ["_".join(str(core) for core in range(used)) for used in range(1, count + 1)]

    def open(self, setting: str) -> None:
        try:
            from rknnlite.api import RKNNLite
        except ImportError as error:
            raise Refused(str(error), missing="rknn") from None
        lite = RKNNLite()
        if lite.load_rknn(self.path) != 0:
            raise Refused("rknn-toolkit-lite2 can't load the file" + mismatch(self.request))
        mask = (
            {"core_mask": getattr(RKNNLite, "NPU_CORE_" + setting)} if self.request["npu_cores"] > 1 else {}
        )
        code = lite.init_runtime(**mask)
        if code not in (0, None):
            lite.release()
            raise Refused(f"the NPU's runtime does not start (code {code})" + mismatch(self.request))
        self.lite = lite

    def shape(self) -> tuple[int, ...]:
        raise Refused(
            "a .rknn does not tell the size of its input: measure its run, or the file in its run's folder"
        )

    def prepare(self, pixels: Any) -> Any:
        return pixels[None]

    def infer(self, given: Any) -> Any:
        outputs = self.lite.inference(inputs=[given])
        if outputs is None:
            raise Refused("the NPU's runtime failed to run the model" + mismatch(self.request))
        return outputs[0]

    def real(self, output: Any) -> Any:
        return output.reshape(-1)

    def close(self) -> None:
        self.lite.release()


# Latency.


def latency(model: Any, request: Values, work: Path) -> Values:
    """Every setting timed; load and first inference of the first one, in a fresh process."""
    import_runtime(model, request)
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
    if not isinstance(model, Rknn):
        return {**found, "latency": {"threads": sweep, "best": best}, "core_masks": None}
    if len(settings) > 1:
        sweep[f"one model each, {len(settings)} side by side"] = side_by_side(model, request, given)
    masks = sweep if len(settings) > 1 else None
    return {**found, "latency": {"threads": {"1": sweep["0"]}, "best": "1"}, "core_masks": masks}


def import_runtime(model: Any, request: Values) -> None:
    """What would fail cryptically later is said first."""
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise Refused(str(error), missing="numpy") from None
    if isinstance(model, Rknn) and mismatch(request):
        say(warning="the board's" + mismatch(request).split(": the board's", 1)[1])


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
    """Percentiles by nearest rank, in ms; inferences a second."""
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
    sessions = []
    for core in range(request["npu_cores"]):
        session = Rknn(Path(model.path), request)
        session.open(str(core))
        sessions.append(session)
    series: list[list[float]] = [[] for _ in sessions]
    failures: list[Refused] = []

    def work(session: Rknn, samples: list[float]) -> None:
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
    for session in sessions:
        session.close()
    if failures:
        raise failures[0]
    return summary([sample for samples in series for sample in samples], took)


# Accuracy and tensors.


def classify(model: Any, request: Values, work: Path, best: str) -> int:
    """Write logits.npy float32 [n, classes] for the validation images."""
    import numpy as np

    pixels = np.load(str(work / request["pixels"]), mmap_mode="r")
    model.open("0" if isinstance(model, Rknn) else best)
    rows, said = [], 0.0
    for number, image in enumerate(pixels):
        rows.append(np.array(model.real(model.infer(model.prepare(image))), np.float32))
        if time.perf_counter() - said >= PROGRESS_SECONDS:
            said = time.perf_counter()
            say(progress=[number + 1, len(pixels), "classify"])
    model.close()
    np.save(str(work / "logits.npy"), np.stack(rows))
    return len(rows)


def dump(model: Any, request: Values, work: Path) -> bool:
    """Write tensors.npz of the first image: arrays named 0, 1, ... and their names in the array `names`."""
    import numpy as np

    if isinstance(model, Rknn):
        say(warning="rknn-toolkit-lite2 can't give inner tensors: --dump-tensors has no effect on a .rknn")
        return False
    found = model.tensors(first_image(model, request, work))
    arrays = {str(number): value for number, value in enumerate(found.values())}
    np.savez(str(work / "tensors.npz"), names=np.array(list(found)), **arrays)
    return True


# The machine.


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def thread_counts(count: int) -> list[int]:
    """Powers of two up to the number of cores, and that number."""
    return sorted({1 << power for power in range(count.bit_length())} | {count})


def read(path: str) -> str | None:
    """A small file's text, or None."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4096).decode(errors="replace").strip("\0 \n") or None
    except OSError:
        return None


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
    """Of the packages that are there; for an NPU its driver and library too."""
    found: Values = {"kernel": platform.release(), "python": platform.python_version()}
    for name in PACKAGES:
        version = package_version(name)
        if version:
            found[name] = version
    if isinstance(model, Rknn):
        driver = next((text for text in map(read, DRIVER) if text), None)
        found["rknpu driver"] = driver.split()[-1].lstrip("v") if driver else "not readable"
        found["librknnrt"] = library_version(model.request) or "not found"
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


def library_version(request: Values) -> str | None:
    """The version inside librknnrt.so."""
    for path in request.get("libraries") or LIBRARIES:
        try:
            data = Path(path).read_bytes()
        except OSError:
            continue
        found = re.search(rb"librknnm?rt version: ([0-9.]+)", data)
        if found:
            return found.group(1).decode()
    return None


def mismatch(request: Values) -> str:
    """Why toolkit and library don't fit, or nothing. Older libraries refuse or misread newer files."""
    have, toolkit = library_version(request), request["toolkit"]
    if not (have and toolkit) or parts(have) >= parts(toolkit):
        return ""
    return f": the board's librknnrt {have} is older than the rknn-toolkit2 {toolkit} that made the file"


def parts(version: str) -> list[int]:
    """Major, minor and patch as numbers."""
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


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
        done = subprocess.run(
            ["sudo", "-n", "tee", path],
            input=value.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise Refused(f"{path} may not be written by this user", clocks="permission") from None
    except OSError as error:
        raise Refused(f"{path} does not take {value}: {error.strerror}", clocks="refused") from None


if __name__ == "__main__":
    main()
