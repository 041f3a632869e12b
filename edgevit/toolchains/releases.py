"""The vendors' converters that edgevit knows, release by release: where each runs and what proves that it works."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import InputError

LOCKS = Path(__file__).parent / "locks"


@dataclass(frozen=True)
class Release:
    """One release of a toolchain.

    `check` is Python that proves it works, `needed_mb` the disk that its installation takes. It runs on
    `pythons`, preferred ones first, and on Linux on `machines`; `elsewhere` is what to do on other ones. With
    `borrows_torch` it needs a whole torch, takes that of edgevit, and runs on edgevit's own Python; without, it has
    an interpreter of its own and a stand-in for the little it uses.
    """

    toolchain: str
    version: str
    title: str
    check: str
    needed_mb: int
    pythons: tuple[str, ...]
    machines: tuple[str, ...] = ("x86_64", "aarch64")
    elsewhere: str = "Convert on a Linux PC"
    borrows_torch: bool = False

    @property
    def lock(self) -> Path:
        """Its hash-pinned requirements, the same for every Python and machine."""
        return LOCKS / f"{self.toolchain}-{self.version}.txt"

    @property
    def spec(self) -> str:
        """What people call it: the toolchain's name, with the version where it is not the usual one."""
        usual = RELEASES[self.toolchain][0] is self
        return self.toolchain if usual else f"{self.toolchain}@{self.version}"


def rknn(version: str) -> Release:
    """A release of Rockchip's toolkit."""
    return Release(
        "rknn",
        version,
        f"rknn-toolkit2 {version}",
        "from rknn.api import RKNN",
        needed_mb=1500,
        pythons=("3.12", "3.11", "3.10"),
    )


LITERT = Release(
    "litert",
    "0.10.0",
    "litert-torch 0.10.0",
    "import litert_torch, ai_edge_quantizer; from ai_edge_litert.interpreter import Interpreter",
    needed_mb=2500,
    pythons=("3.11", "3.12", "3.13", "3.14"),
    machines=("x86_64",),  # litert-converter has no package for others
    elsewhere="Convert for rknn or onnx here, and for LiteRT on an x86-64 PC",
    borrows_torch=True,
)
# The usual release of each first.
RELEASES: dict[str, tuple[Release, ...]] = {"rknn": (rknn("2.5.0"), rknn("2.3.2")), "litert": (LITERT,)}


def find(spec: str) -> Release:
    """The release that a toolchain's name (rknn), or name and version (rknn@2.3.2), means.

    Raises InputError for one that there is not.
    """
    name, _, version = spec.partition("@")
    if name not in RELEASES:
        fix = f"Choose from {', '.join(RELEASES)}"
        raise InputError(f"unknown toolchain {name!r}", "there is none of that name", fix)
    if "@" not in spec:
        return RELEASES[name][0]
    for release in RELEASES[name]:
        if release.version == version:
            return release
    versions = ", ".join(release.version for release in RELEASES[name])
    raise InputError(
        f"unknown release {version!r} of {name}", "edgevit has no lock for it", f"Choose from {versions}"
    )


def usable(spec: str) -> Release:
    """A release that can run on this machine. Raises InputError naming what stands in the way."""
    release = find(spec)
    what = f"cannot use the {spec} toolchain"
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in release.machines:
        has = " and ".join(release.machines)
        here = f"{platform.system()} on {machine}"
        raise InputError(
            what, f"its vendor makes it for Linux on {has}, and this is {here}", release.elsewhere
        )
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if release.borrows_torch and here not in release.pythons:
        why = f"it runs on edgevit's own Python and has no packages for {here}"
        raise InputError(what, why, f"Run edgevit with Python {' or '.join(release.pythons)}")
    return release


def others(spec: str) -> list[str]:
    """The other releases of a toolchain, as rknn@2.3.2: what to try where one fails."""
    chosen = find(spec)
    known = RELEASES[chosen.toolchain]
    return [f"{each.toolchain}@{each.version}" for each in known if each is not chosen]
