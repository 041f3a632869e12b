"""What keeps a softmax from giving NaN where every score is masked, left out where no mask can do that.

torch's attention has it since 2.5. NPUs leave it to the CPU, and no compiler takes the attention for one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgevit.rewrites.graph.values import constant, maker

MASKED = -1e4  # a score below that is a mask's


def drop_guards(model: ir.Model) -> int:
    """Replace `Where(IsNaN(y), constant, y)` of an unmasked softmax y by y, in place; how many were."""
    count = 0
    for node in [each for each in model.graph if each.op_type == "Where" and not each.domain]:
        condition, other, y = node.inputs
        asked, softmax = maker(condition, "IsNaN"), maker(y, "Softmax")
        if asked is None or softmax is None or asked.inputs[0] is not y or constant(other) is None:
            continue
        out = node.outputs[0]
        if masked(softmax.inputs[0]) or out.is_graph_output() or y is None:
            continue
        ir.convenience.replace_all_uses_with(out, y)
        model.graph.remove(node, safe=True)
        if not asked.outputs[0].uses():
            model.graph.remove(asked, safe=True)
        count += 1
    return count


def masked(scores: ir.Value | None) -> bool:
    """Whether a mask may be among the scores: a choice, or a constant of very low numbers that is added."""
    while True:
        if maker(scores, "Where", "Max", "Min") is not None:
            return True
        node = maker(scores, "Add", "Mul", "Div", "Reshape", "Identity")
        if node is None:
            return False
        for each in node.inputs:
            known = constant(each)
            if known is not None and known.dtype.kind == "f" and not np.all(known > MASKED):
                return True
        scores = next((each for each in node.inputs if each is not None and constant(each) is None), None)
