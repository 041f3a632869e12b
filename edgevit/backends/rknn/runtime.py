"""Runs a .rknn on its NPU: rknnlite (rknn-toolkit-lite2). Python 3.7."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

if __package__:
    from edgevit.backends.board_runtime import Model, Refused, Values, read
else:  # on a board the files lie side by side
    from board_runtime import Model, Refused, Values, read  # type: ignore[import-not-found,no-redef]


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
SITE = "https://github.com/airockchip/rknn-toolkit2"
DRIVER = ("/sys/kernel/debug/rknpu/version", "/proc/rknpu/version", "/sys/module/rknpu/version")


class Runtime(Model):
    """Rockchip's NPU through rknn-toolkit-lite2. Written against 2.5.0's interface; not yet run on silicon."""

    sets_threads = False

    def settings(self) -> list[str]:
        """Core masks, cumulative: 0, 0_1, 0_1_2. RK356x and the small ones have one core and take no mask."""
        count = self.request["npu_cores"]
        return ["_".join(str(core) for core in range(used)) for used in range(1, count + 1)]

    def side_by_side(self) -> list[str]:
        """One core each, where there are several."""
        count = self.request["npu_cores"]
        return [str(core) for core in range(count)] if count > 1 else []

    def warning(self) -> str:
        """That library and toolkit don't fit, where they don't."""
        found = mismatch(self.request)
        return "the board's" + found.split(": the board's", 1)[1] if found else ""

    def versions(self) -> Values:
        """The NPU's driver and library."""
        driver = next((text for text in map(read, DRIVER) if text), None)
        return {
            "rknpu driver": driver.split()[-1].lstrip("v") if driver else "not readable",
            "librknnrt": library_version(self.request) or "not found",
        }

    def why_no_tensors(self) -> str:
        return "rknn-toolkit-lite2 can't give inner tensors"

    def open(self, setting: str) -> None:
        try:
            from rknnlite.api import RKNNLite
        except ImportError as error:
            raise Refused(str(error), missing="runtime") from None
        lite = RKNNLite()
        if lite.load_rknn(self.path) != 0:
            raise refused("rknn-toolkit-lite2 can't load the file", self.request)
        mask = (
            {"core_mask": getattr(RKNNLite, "NPU_CORE_" + setting)} if self.request["npu_cores"] > 1 else {}
        )
        code = lite.init_runtime(**mask)
        if code not in (0, None):
            lite.release()
            raise refused(f"the NPU's runtime does not start (code {code})", self.request)
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
            raise refused("the NPU's runtime failed to run the model", self.request)
        return outputs[0]

    def close(self) -> None:
        self.lite.release()


def refused(why: str, request: Values) -> Refused:
    """A refusal that says where toolkit and library don't fit, and what to do about it."""
    found = mismatch(request)
    fix = {"fix": "Copy a newer librknnrt.so of " + SITE + " to /usr/lib there"} if found else {}
    return Refused(why + found, **fix)


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
    have, toolkit = library_version(request), request["tools"].get("rknn-toolkit2")
    if not (have and toolkit) or parts(have) >= parts(toolkit):
        return ""
    return f": the board's librknnrt {have} is older than the rknn-toolkit2 {toolkit} that made the file"


def parts(version: str) -> list[int]:
    """Major, minor and patch as numbers."""
    return [int(part) for part in re.findall(r"\d+", version)[:3]]
