"""Rewrites are kept where the compiler's price says so."""

from __future__ import annotations

import onnx

from edgevit.errors import ToolchainError
from edgevit.rewrites.graph.confirm import rewrite_where_it_pays
from edgevit.targets.profiles import Npu
from tests.rewrites.graph.graphs import Classifier, graph_of, kinds, noise

NPU = Npu(target="any", max_conv_stride=7, transpose_alignment=8)
EVERY = ("split-strides", "trim-tokens", "pad-tokens", "softmax-by-norm", "token-rows")


def model() -> onnx.ModelProto:
    return graph_of(Classifier("chunks", patch=8, grid=3, dim=8, heads=2), 1, 3, 24, 24)


def test_all_are_kept_where_they_are_cheapest() -> None:
    graph = model()
    found = rewrite_where_it_pays(
        graph, EVERY, noise(1, 3, 24, 24), NPU, lambda given: (float(kinds(given).count("Softmax")),)
    )
    assert "Softmax" not in kinds(found.graph)
    assert {record.name for record in found.records if record.changed} == set(EVERY)


def test_what_few_models_need_is_left_out_alone_where_the_compiler_prices_it_higher() -> None:
    """Here what costs are the wider heads' weights."""
    names = (*EVERY, "pad-heads")
    found = rewrite_where_it_pays(
        model(),
        names,
        noise(1, 3, 24, 24),
        NPU,
        lambda given: (float(sum(each.dims[-1:] == [48] for each in given.graph.initializer)),),
    )
    told = {record.name: record.changed for record in found.records}
    assert not told["pad-heads"] and told["softmax-by-norm"] and told["token-rows"]


def test_those_that_move_tokens_are_left_out_where_the_compiler_prices_them_higher() -> None:
    found = rewrite_where_it_pays(
        model(), EVERY, noise(1, 3, 24, 24), NPU, lambda given: (float(len(given.graph.node)),)
    )
    told = {record.name: record for record in found.records}
    assert not told["softmax-by-norm"].changed
    assert told["softmax-by-norm"].what.startswith("left out, the compiler's estimate is higher with it: ")


def test_a_graph_that_does_not_compile_rewritten_stays_as_it_was() -> None:
    graph = model()

    def price(given: onnx.ModelProto) -> tuple[float, ...]:
        if given != graph:
            raise ToolchainError("it", "dies", "stop")
        return (1.0,)

    found = rewrite_where_it_pays(graph, EVERY, noise(1, 3, 24, 24), NPU, price)
    assert found.graph == graph and not any(record.changed for record in found.records)


def test_nothing_is_compiled_where_nothing_changed() -> None:
    graph = model()
    found = rewrite_where_it_pays(graph, (), noise(1, 3, 24, 24), NPU, lambda given: 1 / 0)  # type: ignore[arg-type,return-value]
    assert found.graph == graph and found.records == ()
