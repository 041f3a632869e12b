"""A graph in the operators of another opset: the latest that every compiler takes."""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import helper, shape_inference

from edgevit.errors import EdgevitError

ONNX = ("", "ai.onnx")


def brought_down(graph: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A graph in the operators of `opset`; those that are newer, as what they are defined by.

    Give a simplified graph: fewer operators have to have been there before. Raises EdgevitError.
    """
    try:
        newer = {("", node.op_type) for node in graph.graph.node if first_version(node) > opset}
        spelt = onnx.inliner.inline_selected_functions(graph, sorted(newer), inline_schema_functions=True)
        return onnx.version_converter.convert_version(usual(spelt), opset)
    except Exception as error:  # the converter raises whatever its C++ does
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise EdgevitError(
            f"cannot bring the graph down to opset {opset}, the latest that every target takes",
            lines[0].rpartition(": ")[2][:200].rstrip("."),
            f"Export the model with opset {opset} or earlier",
        ) from error


def brought_up(graph: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A simplified graph in the operators of `opset`; as it is, where that can't be done."""
    try:
        found = onnx.version_converter.convert_version(graph, opset)
        onnx.checker.check_model(found, full_check=True)
    except Exception:  # the converter raises whatever its C++ does
        return graph
    return found


def first_version(node: onnx.NodeProto) -> int:
    """The opset that brought a node's operator; 0 where it isn't one of ONNX's own."""
    if node.domain not in ONNX:
        return 0
    schemas = (each for each in onnx.defs.get_all_schemas_with_history() if not each.domain)
    return min((each.since_version for each in schemas if each.name == node.op_type), default=0)


def usual(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Definitions are written for any type and number of inputs: their nodes as exporters write them.

    A CastLike becomes a Cast to the type it looks at, a Sum of two an Add.
    """
    inferred = shape_inference.infer_shapes(graph).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {each.name: each.type.tensor_type.elem_type for each in values}
    types |= {each.name: each.data_type for each in inferred.initializer}
    for node in graph.graph.node:
        if node.op_type == "CastLike" and types.get(node.input[1]):
            node.op_type = "Cast"
            node.attribute.append(helper.make_attribute("to", types[node.input[1]]))
            del node.input[1]
        elif node.op_type == "Sum" and len(node.input) == 2:
            node.op_type = "Add"
    return graph
