"""Which release of a vendor's converter a name means, and whether it can run here."""

from __future__ import annotations

import platform
from types import SimpleNamespace

import pytest

from edgevit.errors import InputError
from edgevit.toolchains import releases


def refusal(spec: str) -> str:
    with pytest.raises(InputError) as caught:
        releases.usable(spec)
    return str(caught.value)


def test_a_name_means_the_usual_release_and_a_version_another() -> None:
    assert releases.find("rknn").version == "2.5.0"
    assert releases.find("rknn@2.3.2").title == "rknn-toolkit2 2.3.2"
    assert releases.find("rknn@2.5.0").spec == "rknn"
    assert releases.others("rknn") == ["rknn@2.3.2"]
    assert releases.others("rknn@2.3.2") == ["rknn@2.5.0"]


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("rkn", "unknown toolchain 'rkn': there is none of that name. Choose from rknn, litert."),
        ("x", "unknown toolchain 'x': there is none of that name. Choose from rknn, litert."),
        ("rknn@1.7", "unknown release '1.7' of rknn: edgevit has no lock for it. Choose from 2.5.0, 2.3.2."),
        ("rknn@", "unknown release '' of rknn: edgevit has no lock for it. Choose from 2.5.0, 2.3.2."),
        ("../rknn", "unknown toolchain '../rknn': there is none of that name. Choose from rknn, litert."),
    ],
)
def test_an_unknown_name_or_release_is_one_line(spec: str, line: str) -> None:
    assert refusal(spec) == line


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_every_toolchain_is_there_for_every_python_of_edgevit(
    minor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "sys", SimpleNamespace(version_info=(3, minor, 0)))
    assert all(releases.usable(name) for name in releases.RELEASES)


def test_a_python_without_packages_of_what_needs_edgevits_own_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(releases, "sys", SimpleNamespace(version_info=(3, 15, 0)))
    assert refusal("litert") == (
        "cannot use the litert toolchain: it runs on edgevit's own Python and has no packages for 3.15. "
        "Run edgevit with Python 3.11 or 3.12 or 3.13 or 3.14."
    )
    assert releases.usable("rknn")  # has an interpreter of its own


def test_arm_machines_have_rknn_and_are_told_what_to_do_about_litert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert releases.usable("rknn")
    assert refusal("litert") == (
        "cannot use the litert toolchain: its vendor makes it for Linux on x86_64, and this is Linux on aarch64. "
        "Convert for rknn or onnx here, and for LiteRT on an x86-64 PC."
    )


def test_other_systems_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "for Linux on x86_64 and aarch64, and this is Darwin on" in refusal("rknn")
