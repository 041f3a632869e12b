"""Runs a .rknn on its NPU: by the board's own library, else by rknnlite (rknn-toolkit-lite2). Python 3.7."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

if __package__:
    from edgevit.backends.board_runtime import Model, Refused, Values, read, require
    from edgevit.backends.rknn import rknn_api
    from edgevit.backends.rknn.rknn_api import RknnError
else:  # on a board the files lie side by side
    import rknn_api  # type: ignore[import-not-found,no-redef]
    from board_runtime import Model, Refused, Values, read, require  # type: ignore[import-not-found,no-redef]
    from rknn_api import RknnError  # type: ignore[import-not-found,no-redef]


SITE = "https://github.com/airockchip/rknn-toolkit2"
DRIVER = ("/sys/kernel/debug/rknpu/version", "/proc/rknpu/version", "/sys/module/rknpu/version")


class Runtime(Model):
    """Rockchip's NPU. Written against library and package of 2.3.2 and 2.5.0; not yet run on silicon."""

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
        return "the NPU's runtime can't give inner tensors"

    def ready(self) -> None:
        try:
            rknn_api.load(places(self.request))
        except RknnError as error:
            try:
                require("rknnlite")
            except Refused:
                raise refused(str(error), self.request, missing="runtime") from None

    def open(self, setting: str, like: Any = None) -> None:
        cores = setting if self.request["npu_cores"] > 1 else None
        try:
            library = rknn_api.load(places(self.request))
        except RknnError as error:
            self.session: Any = RknnLite(self.path, cores, self.request, str(error))
            return
        try:
            self.session = rknn_api.Session(library, self.path, cores, like=like)
        except RknnError as error:
            raise refused("the NPU's runtime does not start: " + str(error), self.request) from None

    def another(self, setting: str) -> Runtime:
        """The same model on other cores; the library lets both share the weights."""
        other = type(self)(Path(self.path), self.request)
        other.open(setting, like=self.session if isinstance(self.session, rknn_api.Session) else None)
        return other

    def shape(self) -> tuple[int, ...]:
        if isinstance(self.session, RknnLite):
            raise Refused(
                "a .rknn does not tell the size of its input: measure its run, or the file in its run's folder"
            )
        return self.session.height, self.session.width, self.session.channels

    def prepare(self, pixels: Any) -> Any:
        return pixels

    def infer(self, given: Any) -> Any:
        try:
            return self.session.run(given)
        except RknnError as error:
            raise refused("the NPU's runtime failed to run the model: " + str(error), self.request) from None

    def layer_times(self) -> str:
        """The library's own table of one inference's times, layer by layer; empty where it gives none."""
        try:
            library = rknn_api.load(places(self.request))
            session = rknn_api.Session(library, self.path, None, rknn_api.COLLECT_PERF)
        except RknnError:
            return ""
        try:
            import numpy as np

            session.run(np.zeros((session.height, session.width, session.channels), np.uint8))
            return session.layer_times()
        except RknnError:
            return ""
        finally:
            session.close()

    def close(self) -> None:
        self.session.close()


class RknnLite:
    """The vendor's Python package, where its library can't be used directly; `why` says for what reason."""

    def __init__(self, path: str, cores: str | None, request: Values, why: str) -> None:
        try:
            from rknnlite.api import RKNNLite
        except ImportError as error:
            package = "" if "rknnlite" in str(error) else f"; rknn-toolkit-lite2 lacks a package ({error})"
            raise refused(why + package, request, missing="runtime") from None
        lite = RKNNLite()
        try:
            if lite.load_rknn(path) != 0:
                raise refused("rknn-toolkit-lite2 can't load the file", request)
            mask = {} if cores is None else {"core_mask": getattr(RKNNLite, "NPU_CORE_" + cores)}
            code = lite.init_runtime(**mask)
            if code not in (0, None):
                raise refused(f"the NPU's runtime does not start (code {code}): {why}", request)
        except BaseException:
            lite.release()
            raise
        self.lite = lite

    def run(self, pixels: Any) -> Any:
        """One inference: all outputs side by side."""
        import numpy as np

        outputs = self.lite.inference(inputs=[pixels[None]])
        if outputs is None:
            raise RknnError("it gave nothing")
        return np.concatenate([np.asarray(each, np.float32).reshape(-1) for each in outputs])

    def close(self) -> None:
        """Give everything back."""
        self.lite.release()


def refused(why: str, request: Values, **values: str) -> Refused:
    """A refusal that says where toolkit and library don't fit, and what to do about it."""
    found = mismatch(request)
    fix = {"fix": "Copy a newer librknnrt.so of " + SITE + " to /usr/lib there"} if found else {}
    return Refused(why + found, **fix, **values)


def places(request: Values) -> Any:
    """Where the library may be: where the board's owner says, else the usual places."""
    return request.get("libraries") or rknn_api.LIBRARIES


def library_version(request: Values) -> str | None:
    """The version inside librknnrt.so."""
    for path in places(request):
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
