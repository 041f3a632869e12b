"""How .rknn artefacts run on a board, and what it needs for that: driver, library, Python package."""

from __future__ import annotations

from pathlib import Path

from edgevit.backends.protocol import OnBoard
from edgevit.backends.rknn.layer_times import read_layer_times
from edgevit.backends.rknn.rknn_api import LIBRARIES
from edgevit.targets.facts import Facts, Missing, pip, version
from edgevit.toolchains import environment, releases

PACKAGE = "rknn-toolkit-lite2"
RUNNER = ("edgevit_runner.c", "CMakeLists.txt")
RUNTIME_SITE = "https://github.com/airockchip/rknn-toolkit2"
# airockchip/rknn-toolkit2 issue 378: with 0.9.6, toolkit 2.3 models with softmax fail ("failed to submit").
OLDEST_GOOD_DRIVER = (0, 9, 7)

PROBE = r"""
for f in /sys/kernel/debug/rknpu/version /proc/rknpu/version /sys/module/rknpu/version; do
  v="$(cat "$f" 2>/dev/null)"; [ -n "$v" ] && break
done
[ -n "$v" ] || v="$(dmesg 2>/dev/null | grep -m1 -o 'Initialized rknpu [0-9.]*')"
say npu_driver "$v"
n=""
for f in /sys/module/rknpu /dev/rknpu /sys/kernel/debug/rknpu /sys/class/devfreq/*npu*; do
  [ -e "$f" ] && n="$f"
done
say npu_node "$n"
for f in @LIBRARIES@; do
  if [ -e "$f" ]; then
    say npu_library "$f"
    say npu_library_version "$(grep -a -o -m1 'librknnm*rt version: [0-9.]*' "$f" 2>/dev/null)"
    break
  fi
done
""".replace("@LIBRARIES@", " ".join(LIBRARIES))  # where the runner looks


def needs(facts: Facts) -> list[Missing]:
    """What .rknn artefacts need: driver and library; the runner calls the library itself."""
    found = []
    if facts.npu_driver is None and facts.npu_node is None:
        found.append(
            Missing(
                "the NPU driver (rknpu)",
                f"kernel {facts.kernel} has none; mainline kernels have another driver that can't run .rknn files",
                "Boot the board vendor's image (kernel 5.10 or 6.1 with rknpu)",
            )
        )
    elif facts.npu_driver and version(facts.npu_driver) < OLDEST_GOOD_DRIVER:
        found.append(
            Missing(
                "a newer NPU driver",
                f"{facts.npu_driver} is known to fail on softmax with runtimes from 2.3 on",
                "Update the board vendor's image (rknpu 0.9.7 or later)",
            )
        )
    found += library(facts)
    return found


def library(facts: Facts) -> list[Missing]:
    """The runtime library, at least as new as the toolkit that makes the artefacts."""
    toolkit = environment.title("rknn").split()[-1]
    copy = f"Copy rknpu2/runtime/Linux/librknn_api/aarch64/librknnrt.so of {RUNTIME_SITE} to /usr/lib"
    if facts.npu_library is None:
        return [Missing("librknnrt.so", "it runs .rknn artefacts", copy)]
    have = facts.npu_library_version
    if have and version(have) < version(toolkit):
        why = f"{have} is older than the toolkit of the artefacts ({toolkit}): it may refuse or misread them"
        older = [each for each in releases.others("rknn") if version(each.split("@")[1]) <= version(have)]
        convert = f", or convert with --toolkit {older[0]}" if older else ""
        return [Missing("a newer librknnrt.so", why, f"{copy}, if it has that release{convert}")]
    return []


def install(facts: Facts) -> Missing:
    """The library, or, where it is there and can't be used, the Python package: 64-bit Arm, Python 3.7 to 3.12."""
    if facts.npu_library is None:
        return library(facts)[0]
    fix = pip(PACKAGE)
    if facts.machine != "aarch64":
        fix = f"It exists only for 64-bit Arm Linux, and this is {facts.machine}; copy the library for it"
    elif facts.python and version(facts.python)[:2] > (3, 12):
        fix = f"It exists for Python 3.7 to 3.12, and this is {facts.python}; copy a library that can be used"
    return Missing(PACKAGE, "it runs .rknn artefacts", fix)


def oldest(toolkit: str) -> dict[str, str]:
    """The library must be of the toolkit's release or later, the driver one of those known to run softmax."""
    return {"librknnrt.so or librknnmrt.so": toolkit, "rknpu driver": ".".join(map(str, OLDEST_GOOD_DRIVER))}


ON_BOARD = OnBoard(
    runtime=Path(__file__).with_name("runtime.py"),
    beside=(Path(__file__).with_name("rknn_api.py"),),
    native_runner=tuple(Path(__file__).parent.joinpath("runner", name) for name in RUNNER),
    layer_times=read_layer_times,
    packages=(PACKAGE,),
    runtime_words="librknnrt.so {rknn-toolkit2} or later with its NPU driver (or rknn-toolkit-lite2)",
    takes_pixels=True,
    cpp_sample=tuple(
        Path(__file__).parent.joinpath("sample", name) for name in ("runtime.h", "runtime.cmake")
    ),
    description_room=1023,  # rknn_custom_string of rknn_api.h
    needs=needs,
    install=install,
    probe=PROBE,
)
