"""Exact rewrites of any model's graph: patterns of operations matched and replaced, whatever class it came from.

They act on ONNX through `onnxscript.rewriter` and `onnx_ir`: both are kept by the ONNX project and come with
torch's own exporter, and a rule reads as what it is: a pattern, a check, a replacement. ONNX is what every NPU's
compiler starts from, and what a model that comes as a file is already. What follows an axis through many operations
(padding, trimming) walks over the graph instead: no pattern says where it ends.
"""
