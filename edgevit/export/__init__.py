"""The float graphs that backends start from, and the proof that they compute what torch computes."""

from edgevit.export.onnx_graph import export_graph, export_onnx
from edgevit.export.parity import parity
from edgevit.export.program import export_program

__all__ = ["export_graph", "export_onnx", "export_program", "parity"]
