"""A commented board profile to fill in."""

from __future__ import annotations

import re
from pathlib import Path

from edgevit.backends.registry import backends
from edgevit.errors import InputError
from edgevit.files import write_atomically

TOP = """\
# A board profile: what the code needs to know about a board or SoC. Delete what you don't need; every key that is
# commented out shows its default or an example. Use it with --target {name}.toml, check it with
#   edgevit boards list --board {name}.toml

name = "My board"
# Who makes and runs the artefact: {backends}.
backend = "{backend}"
# Where the limits below come from: a document, a measurement. Numbers without a source can't be trusted later.
source = "{source}"

# What artefacts may compute in, and why a precision can't be had.
# precisions = ["float", "int8"]
# [refuse]
# int8 = "the reason, printed to whoever asks for it"

# Beginnings of the names by which the board identifies itself: cat /proc/device-tree/compatible, or android,ABI.
# compatible = ["vendor,soc"]

# Exact rewrites that pay here: see `edgevit convert --help` and boards/rk3588.toml for names.
# rewrites = ["split-strides", "fold-norms"]

# Thermal sensors, in millidegrees: read before and after a benchmark.
# temperature = ["/sys/class/thermal/thermal_zone0/temp"]
"""

NPU = """
[npu]
# The name the vendor's toolkit gives this platform.
target = "rk3588"
# A platform with float whose builds do the same to a graph, where this one has none: compilers are proved in float.
# proved_as = "rk3566"
# The largest convolution stride the NPU runs in one pass.
# max_conv_stride = 7
# Tokens, input and output channels are computed in blocks of this many.
# token_alignment = 16
# input_channel_alignment = 32
# channel_alignment_int8 = 32
# Token counts off this multiple send transposes to the CPU; 1: none.
# transpose_alignment = 1
# cores = 1
# clock_hz = 1_000_000_000
# Of one core: multiply-accumulates and bytes over the compiler's cycles.
# macs_per_cycle_int8 = 1024
# macs_per_cycle_float = 512
# ddr_bytes_per_cycle = 23.5
# What single tensors of an int8 model can be instead, float16 or int16: found by a search where int8 loses much.
# sixteen_bit = "float16"
# Kinds of tensors, as a .plan.toml names them, that the compiler can't make in it.
# never_sixteen_bit = ["attention"]
# Op types that leave the NPU: why, and what to try.
# [npu.cpu_ops]
# Transpose = "the reason"
"""

CLOCKS = """
# Clocks that `edgevit bench --pin-clocks` sets and restores: one section each, any name. Writing needs root.
# [clocks.cpu]
# governor = "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
# set_frequency = "/sys/devices/system/cpu/cpufreq/policy0/scaling_setspeed"
# read_frequency = "/sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq"
# unit = "kHz"
# pin = 1_800_000
"""


def write_template(name: str, backend: str, folder: Path) -> Path:
    """Write NAME.toml into `folder`; return its path. Raises InputError for a bad name or a file that is there."""
    stem = name.removesuffix(".toml")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", stem):
        raise InputError(
            f"cannot name a board {name!r}",
            "a name has letters, digits, dots, dashes and underscores",
            "Choose another, such as my-board",
        )
    path = folder / f"{stem}.toml"
    if path.exists():
        raise InputError(
            f"cannot write {path}", "the file is there already", "Choose another name or edit the file"
        )
    write_atomically(path, template(stem, backend))
    return path


def template(name: str, backend: str) -> str:
    """The text of a new profile."""
    known = {each.name: each for each in backends()}
    words = ", ".join(f'"{each.name}" ({each.suffix}, {each.device})' for each in known.values())
    top = TOP.format(name=name, backend=backend, backends=words, source=known[backend].source)
    return top + (NPU if known[backend].for_npu else "") + CLOCKS
