"""How .tflite artefacts run on a board, and what it needs for that."""

from __future__ import annotations

from pathlib import Path

from edgevit.backends.protocol import OnBoard
from edgevit.targets.facts import Facts, Missing, pip, version
from edgevit.toolchains import environment

PACKAGES = ("ai-edge-litert", "tflite-runtime")


def needs(facts: Facts) -> list[Missing]:
    """What the board lacks."""
    return [] if set(PACKAGES) & set(facts.modules) else [install(facts)]


def install(facts: Facts) -> Missing:
    """How to get the new package, or the frozen one where that has no wheel."""
    why = "it runs .tflite artefacts"
    python = version(facts.python or "0")[:2]
    if facts.machine in {"aarch64", "x86_64"} and facts.bits != 32 and python >= (3, 10):
        return Missing("ai-edge-litert", why, pip("ai-edge-litert"))
    if python <= (3, 11):
        return Missing("tflite-runtime", why, pip("tflite-runtime", "numpy<2"))
    return Missing(
        "a LiteRT package",
        f"there is none for {facts.machine} with Python {facts.python}",
        "Use a 64-bit system, or measure latency with --benchmark-model",
    )


def sample(*names: str) -> tuple[Path, ...]:
    """Files that show how an artefact is used."""
    return tuple(Path(__file__).parent.joinpath("sample", name) for name in names)


ON_BOARD = OnBoard(
    runtime=Path(__file__).with_name("runtime.py"),
    cpp_sample=sample("runtime.h", "runtime.cmake"),
    android_sample=sample("Classifier.kt"),
    packages=PACKAGES,
    needs=needs,
    install=install,
    python_here=lambda: str(environment.python_of("litert")),
    android=True,
    benchmark_model=True,
    runtime_words="ai-edge-litert, or tflite-runtime where there is no wheel of it",
)
