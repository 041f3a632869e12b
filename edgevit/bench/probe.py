"""What a board is and has, found with nothing but its shell: no Python is needed there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgevit.backends.registry import backends
from edgevit.bench.transport import Transport, TransportError, at_home
from edgevit.targets.facts import Facts

PROBE_SECONDS = 60.0

# POSIX shell as in dash, busybox and toybox. One "key<TAB>value" per line; what isn't there stays empty. Each
# backend adds what it wants to know.
SCRIPT = r"""
say() { printf '%s\t%s\n' "$1" "$(printf %s "$2" | tr '\n\t' '  ')"; }
have() { command -v "$1" >/dev/null 2>&1; }
say kernel "$(uname -r 2>/dev/null)"
say machine "$(uname -m 2>/dev/null)"
say bits "$(getconf LONG_BIT 2>/dev/null)"
say cores "$(grep -c '^processor' /proc/cpuinfo 2>/dev/null)"
say cpu "$(grep -m1 -E '^(model name|Hardware)' /proc/cpuinfo 2>/dev/null | cut -d: -f2-)"
say memory_kb "$(grep MemTotal /proc/meminfo 2>/dev/null | tr -dc '0-9')"
say model "$(tr -d '\0' </proc/device-tree/model 2>/dev/null)"
say compatible "$(tr '\0' ' ' </proc/device-tree/compatible 2>/dev/null)"
say os "$(. /etc/os-release 2>/dev/null && printf %s "$PRETTY_NAME")"
if have getprop; then
  say android "$(getprop ro.build.version.release)"
  say android_abi "$(getprop ro.product.cpu.abi)"
  say android_model "$(getprop ro.product.manufacturer) $(getprop ro.product.model)"
  say android_soc "$(getprop ro.soc.manufacturer) $(getprop ro.soc.model)"
fi
@BACKENDS@
say root "$(id -u 2>/dev/null)"
if have sudo && sudo -n true 2>/dev/null; then say sudo yes; fi
say tmp_free_kb "$(df -k "${TMPDIR:-/tmp}" 2>/dev/null | tail -n1 | tr -s ' ' | cut -d' ' -f4)"
"""

PYTHON = """
import json, sys
def v(n):
    try:
        try: from importlib.metadata import version
        except ImportError:  # Python 3.7
            from pkg_resources import get_distribution
            return get_distribution(n).version
        return version(n)
    except Exception: return None
print(json.dumps({"python": ".".join(map(str, sys.version_info[:3])), "bits": 64 if sys.maxsize > 2**32 else 32,
 "modules": {n: v(n) for n in sys.argv[1:] if v(n)}}))
"""


def probe(transport: Transport, *, python: str = "python3") -> Facts:
    """Look at a board. Raises TransportError if it can't be reached or its shell doesn't answer."""
    script = SCRIPT.replace("@BACKENDS@", "\n".join(each.on_board.probe for each in backends()))
    done = transport.run(["sh", "-c", script], timeout_s=PROBE_SECONDS)
    found = dict(line.split("\t", 1) for line in done.out.splitlines() if "\t" in line)
    found = {key: value.strip() for key, value in found.items()}
    if not found.get("kernel"):
        words = " ".join((done.err or done.out).split())[:200]
        raise TransportError(
            f"cannot look at {transport.name}",
            f"its shell did not answer ({words or f'exit code {done.code}'})",
            "Log in by hand and check that sh works",
        )
    return facts(transport.name, found, python_of(transport, python))


def python_of(transport: Transport, python: str) -> dict[str, Any]:
    """Version and packages of the board's Python; empty where there is none."""
    done = transport.run([at_home(transport, python), "-c", PYTHON, *packages()], timeout_s=PROBE_SECONDS)
    try:
        answer = json.loads(done.out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return answer if isinstance(answer, dict) else {}


def packages() -> tuple[str, ...]:
    """Python packages worth looking for: every backend's, and numpy."""
    return (*(name for each in backends() for name in each.on_board.packages), "numpy")


def facts(where: str, found: Mapping[str, str], python: Mapping[str, Any]) -> Facts:
    """Typed facts of what the two scripts printed."""
    names = tuple(found.get("compatible", "").split())
    if found.get("android_abi"):
        names += (f"android,{found['android_abi']}",)
    android_words = " ".join(f"{found.get('android_model', '')} {found.get('android_soc', '')}".split())
    return Facts(
        where=where,
        model=found.get("model") or android_words or "unknown",
        compatible=names,
        machine=found.get("machine", ""),
        bits=python.get("bits") or number(found.get("bits")),
        cpu=found.get("cpu", ""),
        cores=number(found.get("cores")),
        memory_mb=megabytes(found.get("memory_kb")),
        kernel=found["kernel"],
        os=found.get("os") or (f"Android {found['android']}" if found.get("android") else ""),
        android=found.get("android") or None,
        npu_driver=version_in(found.get("npu_driver")),
        npu_node=found.get("npu_node") or None,
        npu_library=found.get("npu_library") or None,
        npu_library_version=version_in(found.get("npu_library_version")),
        python=python.get("python"),
        modules=python.get("modules", {}),
        may_pin_clocks=found.get("root") == "0" or found.get("sudo") == "yes",
        tmp_free_mb=megabytes(found.get("tmp_free_kb")),
    )


def number(text: str | None) -> int | None:
    """A whole number, or None."""
    return int(text) if text and text.isdigit() else None


def megabytes(kilobytes: str | None) -> int | None:
    """Whole MB of a number of KB, or None."""
    value = number(kilobytes)
    return None if value is None else value // 1024


def version_in(text: str | None) -> str | None:
    """The last word of "RKNPU driver: v0.9.6" or "librknnrt version: 2.3.2" without its v, or None."""
    words = (text or "").split()
    return words[-1].lstrip("v") if words else None
