"""How .onnx artefacts run on a board, and what it needs for that."""

from __future__ import annotations

import sys
from pathlib import Path

from edgevit.backends.protocol import OnBoard
from edgevit.targets.facts import Facts, Missing, pip

PACKAGE = "onnxruntime"


def install(facts: Facts) -> Missing:
    """How to get the package."""
    return Missing(PACKAGE, "it runs .onnx artefacts", pip(PACKAGE))


def needs(facts: Facts) -> list[Missing]:
    """What the board lacks."""
    return [] if PACKAGE in facts.modules else [install(facts)]


def with_every_tensor(model: Path, out: Path) -> Path:
    """A copy of an ONNX model whose every tensor is an output."""
    import onnx

    graph = onnx.load(str(model))
    known = {each.name for each in graph.graph.output}
    for node in graph.graph.node:
        for name in node.output:
            if name and name not in known:
                graph.graph.output.append(onnx.ValueInfoProto(name=name))
                known.add(name)
    onnx.save(graph, str(out))
    return out


ON_BOARD = OnBoard(
    runtime=Path(__file__).with_name("runtime.py"),
    packages=(PACKAGE,),
    needs=needs,
    install=install,
    python_here=lambda: sys.executable,
    runtime_words="onnxruntime {onnxruntime} or later",
    layout="NCHW",
    dump_graph=with_every_tensor,
)
