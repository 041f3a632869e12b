"""The order of a conversion, in process, with a backend that is made up: what is told, kept, searched and lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgevit
from edgevit.backends.proof import Probe, Proof
from edgevit.backends.protocol import CompileRequest
from edgevit.backends.registry import registered
from edgevit.errors import ToolFailed
from edgevit.progress import Quiet
from edgevit.run.results import Result
from edgevit.targets.profiles import Board
from tests.backends import made_up
from tests.vits import random_vit


@pytest.fixture(autouse=True)
def backend() -> Iterator[None]:
    with registered(made_up.MADE_UP):
        yield


def convert(
    pictures: Path, out: Path, targets: Any = None, progress: Any = None, **options: Any
) -> edgevit.Run:
    model = edgevit.wrap(random_vit(patch_size=8, num_classes=4), size=32, name="vit")
    return edgevit.convert(
        model,
        targets or made_up.board(),
        calibration=pictures / "calibration",
        validation=pictures / "validation",
        out=out,
        progress=progress or Quiet(),
        **options,
    )


def stages(run: edgevit.Run) -> dict[str, bool]:
    """Every step in order, and whether it was there already."""
    return {step.stage: step.cached for step in run.manifest.stages}


def only(run: edgevit.Run) -> Result:
    (result,) = run.results
    return result


def test_a_search_finds_what_must_stay_in_16_bits_and_every_step_is_told(
    pictures: Path, tmp_path: Path
) -> None:
    run = convert(pictures, tmp_path / "run")
    assert list(stages(run)) == [
        "model",
        "calibration",
        "validation",
        "float",
        "preprocessing",
        "export",
        "search-mine",
        "mine-int8",
        "evaluate-mine-int8",
    ]
    result = only(run)
    assert result.search is not None and result.search.met
    assert len(result.plan.sixteen_bit) >= made_up.ENOUGH
    assert result.diagnosis is not None and result.notes == ()
    for step in run.manifest.stages:
        assert (run.folder / "stages" / step.folder / "step.json").is_file()
        assert step.seconds >= 0 and step.peak_memory_mb > 0


def test_the_same_again_makes_nothing_and_another_limit_only_what_depends_on_it(
    pictures: Path, tmp_path: Path
) -> None:
    convert(pictures, tmp_path / "one")
    assert all(stages(convert(pictures, tmp_path / "two")).values())
    found = stages(convert(pictures, tmp_path / "three", max_drop=90.0))
    assert not found["search-mine"]
    assert found["model"] and found["calibration"] and found["export"]


@pytest.mark.parametrize(
    ("options", "rewrites", "told"),
    [
        ({"without": ("fold-attention-scale",)}, None, "--without leaves it out"),
        ({}, ("fold-norms",), "mine's compiler does not take it"),
    ],
)
def test_a_recipe_that_is_not_followed_is_told(
    pictures: Path, tmp_path: Path, options: Any, rewrites: Any, told: str
) -> None:
    board = made_up.board()
    board = board if rewrites is None else board.model_copy(update={"rewrites": rewrites})
    result = only(convert(pictures, tmp_path / "run", board, **options))
    (note,) = result.notes
    where = "int8 for NPUs is prepared on the graph, not on the module"
    assert note == f"{where}: that needs fold-attention-scale, and {told}"
    assert result.diagnosis is not None and result.diagnosis.weights_only_kl is None
    assert result.search is not None and result.plan.lenient  # by the graph instead


def test_a_graph_that_cannot_be_searched_is_quantized_as_the_vendor_does(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgevit.quantize.graph import find

    def refuse(*_: Any) -> None:
        raise edgevit.EdgevitError(
            "cannot compute the graph step by step", "Odd is not known", "Report the model"
        )

    monkeypatch.setattr(find, "observe", refuse)
    board = made_up.board().model_copy(update={"rewrites": ("fold-norms",)})
    result = only(convert(pictures, tmp_path / "run", board))
    assert result.plan.ranges == 0 and result.plan.sixteen_bit == ()
    assert result.search is not None and not result.search.met
    assert result.search.explanation == (
        "int8 without a search: cannot compute the graph step by step: Odd is not known. Report the model."
    )


def test_ranges_left_to_the_vendor_are_told_where_a_model_is_conditioned(
    pictures: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('name = "mine"\nsource = "me"\ncalibration_images = 16\nconditioning = true\n')
    result = only(convert(pictures, tmp_path / "run", recipe=str(recipe)))
    (note,) = result.notes
    assert note.startswith("the recipe leaves ranges to the vendor")


def dying() -> tuple[Board, Any]:
    """A board whose compiler fails, and its backend."""
    own = replace(made_up.MADE_UP, name="dying", suffix=".dead", compile=fail)
    return made_up.board("other").model_copy(update={"backend": "dying"}), own


def fail(*_: Any) -> Any:
    raise edgevit.EdgevitError("made-up failed", "it died of this model", "Choose another target")


def test_a_target_that_fails_leaves_the_other_and_both_are_in_the_manifest(
    pictures: Path, tmp_path: Path
) -> None:
    board, own = dying()
    with registered(own), pytest.raises(edgevit.EdgevitError) as caught:
        convert(pictures, tmp_path / "run", [board, made_up.board()], search_minutes=0.0)
    assert str(caught.value).startswith("other int8: made-up failed: it died of this model (1 of 2 artefacts")
    run = edgevit.open(tmp_path / "run")
    assert [each.title for each in run.results] == ["mine int8"]
    assert [(each.title, each.why) for each in run.manifest.failures] == [
        ("other int8", "it died of this model")
    ]
    assert "mine-int8" in stages(run) and "other-int8" not in stages(run)


def test_an_option_of_the_vendor_reaches_its_compiler(pictures: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('precision = "int8"\n[options.made-up]\nfails = "it was asked to"\n')
    with pytest.raises(edgevit.EdgevitError, match="made-up failed: it was asked to"):
        convert(pictures, tmp_path / "run", plan=plan)


def test_a_gate_that_is_missed_is_in_the_result(pictures: Path, tmp_path: Path) -> None:
    """The artefact is the float graph, so that it loses nothing; only the search can miss."""
    met = only(convert(pictures, tmp_path / "one", max_drop=0.0))
    assert met.gate == "met"
    impossible = replace(made_up.MADE_UP, simulations=made_up.never)
    with registered(impossible):
        missed = only(convert(pictures, tmp_path / "two", max_drop=0.0, search_minutes=0.1, seed=1))
    assert missed.gate == "missed" and missed.search is not None and not missed.search.met


def proving(right: bool, error: float = 0.3) -> Any:
    """A backend whose compiler breaks the model, with a proof that says what mends it, or that nothing does."""

    def prove(request: CompileRequest, probe: Probe, progress: Any) -> Proof:
        if right:
            return Proof(16, 0.3, 0.001, ("bad_rule",), {"fails": None, "left_out": ["bad_rule"]}, (100, 101))
        (request.out / "for-vendor").mkdir()
        return Proof(16, error)

    def make(request: CompileRequest, progress: Any) -> Any:
        asked.append(request.plan.options.get(made_up.NAME))
        return made_up.make(replace(request, plan=replace(request.plan, options={})), progress)

    class Options(made_up.Options):
        left_out: tuple[str, ...] = ()

    asked: list[Any] = []
    return replace(made_up.MADE_UP, prove=prove, compile=make, options=Options), asked


def test_what_breaks_a_graph_is_left_out_of_its_build_and_told(pictures: Path, tmp_path: Path) -> None:
    backend, asked = proving(right=True)
    with registered(backend):
        run = convert(pictures, tmp_path / "run", search_minutes=0.0)
        assert "prove-mine" in stages(run) and asked[0]["left_out"] == ["bad_rule"]
        (note,) = only(run).notes
        assert note == (
            "the compiler's bad_rule broke this model (outputs off by 30 % in float); built without it they are "
            "off by 0.1 %, at +1.0 % cycles"
        )


def test_a_rewrite_that_the_compiler_breaks_the_graph_with_is_left_out_and_told(
    pictures: Path, tmp_path: Path
) -> None:
    """Here the compiler can't take what folding the attention's scale does to two weights."""
    proved = list[int]()

    def prove(request: CompileRequest, probe: Probe, progress: Any) -> Proof:
        assert request.onnx is not None
        proved.append(sum(node.op_type == "Mul" for node in onnx.load(request.onnx).graph.node))
        return Proof(16, 0.001 if proved[-1] > proved[0] else 0.3)

    board = made_up.board()
    with registered(replace(made_up.MADE_UP, prove=prove)):
        result = only(convert(pictures, tmp_path / "run", board, precisions=["float"]))
    assert result.notes[0] == (
        "the compiler breaks this model with edgevit's fold-attention-scale (outputs off by 30 % in float): built "
        "without, as --without does"
    )
    assert "fold-attention-scale" not in {each.name for each in result.rewrites if each.changed}
    assert {each.name for each in result.rewrites if each.changed}


@pytest.mark.parametrize("dies", [False, True])
def test_a_graph_that_the_compiler_breaks_in_every_other_way_is_spelt_anew_and_told(
    pictures: Path, tmp_path: Path, dies: bool
) -> None:
    """Here the compiler takes only what torch's newer exporter writes, which names its nodes in its own way."""

    def prove(request: CompileRequest, probe: Probe, progress: Any) -> Proof:
        assert request.onnx is not None
        right = any(node.name.startswith("node_") for node in onnx.load(request.onnx).graph.node)
        if dies and not right:
            raise ToolFailed("the compiler failed", "it doesn't say why", "")
        return Proof(16, 0.001 if right else 0.3)

    with registered(replace(made_up.MADE_UP, prove=prove)):
        result = only(convert(pictures, tmp_path / "run", precisions=["float"]))
    how = "it died" if dies else "outputs off by 30 % in float"
    assert result.notes[0] == (
        f"the compiler breaks this model with torch's trace and the trace of torch's program ({how}): built from "
        "torch's newer exporter"
    )


def test_a_float_artefact_is_the_one_that_was_proved(pictures: Path, tmp_path: Path) -> None:
    proved = list[int]()

    def prove(request: CompileRequest, probe: Probe, progress: Any) -> Proof:
        proved.append(len(np.load(probe.pixels)))
        assert len(np.load(probe.outputs)) == proved[-1]
        return Proof(proved[-1], 0.0, made=made_up.make(request, progress))

    def never(request: CompileRequest, progress: Any) -> Any:
        raise AssertionError("compiled twice")

    with registered(replace(made_up.MADE_UP, prove=prove, compile=never)):
        run = convert(pictures, tmp_path / "run", precisions=["float"])
        assert proved == [16]
        assert only(run).accuracy.agreement == 1.0 and run.path_of(only(run)).exists()


@pytest.mark.parametrize(
    ("precision", "without", "tried"),
    [("int8", (), True), ("int8", ("condition-graph",), False), ("float", (), False)],
)
def test_onnx_runtime_s_int8_is_made_from_a_conditioned_graph(
    pictures: Path, tmp_path: Path, precision: str, without: tuple[str, ...], tried: bool
) -> None:
    result = only(convert(pictures, tmp_path / "run", "onnx", precisions=[precision], without=without))
    assert ("condition-graph" in [each.name for each in result.rewrites]) == tried
    assert bool(result.diagnosis and result.diagnosis.conditioning) == tried


@pytest.mark.slow
@pytest.mark.parametrize("target", ["mine", "onnx"])
def test_without_validation_images_an_artefact_is_compared_on_a_probe(
    pictures: Path, tmp_path: Path, target: str
) -> None:
    model = edgevit.wrap(random_vit(patch_size=8, num_classes=4), size=32, name="vit")
    run = edgevit.convert(
        model,
        made_up.board() if target == "mine" else target,
        calibration=pictures / "calibration",
        out=tmp_path / "run",
        search_minutes=0.0,
        progress=Quiet(),
    )
    (note,) = (each for each in only(run).notes if each.startswith("no validation images"))
    assert "of 16 predictions, its outputs are off by " in note and only(run).accuracy is None


@pytest.mark.slow
def test_what_nothing_mends_fails_that_target_and_says_what_to_send(pictures: Path, tmp_path: Path) -> None:
    backend, _ = proving(right=False)
    with registered(backend), pytest.raises(edgevit.EdgevitError) as caught:
        convert(pictures, tmp_path / "run", [made_up.board(), "onnx"], search_minutes=0.0)
    assert "mine's compiler does not compute this model: in float its outputs err by 30 %" in str(
        caught.value
    )
    assert "for-vendor to the vendor, or choose another target" in str(caught.value)
    assert [each.title for each in edgevit.open(tmp_path / "run").results] == ["onnx int8"]


@pytest.mark.slow
def test_values_beyond_the_float_type_fail_float_and_not_int8(pictures: Path, tmp_path: Path) -> None:
    reason = "MatMul_3 reaches 135593, more than float16 holds (65504)"

    def prove(request: CompileRequest, probe: Probe, progress: Any) -> Proof:
        return Proof(16, float("inf"), reason=reason, overflows=True)

    with registered(replace(made_up.MADE_UP, prove=prove)):
        (note,) = only(convert(pictures, tmp_path / "int8", search_minutes=0.0)).notes
        assert reason in note
        with pytest.raises(
            edgevit.EdgevitError, match="float type does not hold this model's values: MatMul_3"
        ):
            convert(pictures, tmp_path / "float", precisions=("float",))


def test_a_platform_without_float_is_proved_as_one_that_has_it(pictures: Path, tmp_path: Path) -> None:
    def prove(request: CompileRequest, probe: Probe, progress: Any) -> Proof:
        assert request.board.npu is not None and request.board.npu.proved_as == "another"
        return Proof(16, 0.3, 0.001, ("bad_rule",), {"fails": None}, (100, 100))

    board = replace_board(made_up.board(proved_as="another"), precisions=("int8",))
    with registered(replace(made_up.MADE_UP, prove=prove)):
        (note,) = only(convert(pictures, tmp_path / "run", board, search_minutes=0.0)).notes
        assert "bad_rule broke this model (outputs off by 30 % in float as another)" in note
    alone = replace_board(made_up.board(), precisions=("int8",))
    with registered(replace(made_up.MADE_UP, prove=prove)):
        assert only(convert(pictures, tmp_path / "alone", alone, search_minutes=0.0)).notes == ()


def replace_board(board: Board, **changes: Any) -> Board:
    return board.model_copy(update=changes)


@pytest.mark.slow
def test_what_float16_does_not_bear_is_told_and_int8_is_made(pictures: Path, tmp_path: Path) -> None:
    backend, _ = proving(right=False, error=0.05)
    with registered(backend):
        (note,) = only(convert(pictures, tmp_path / "int8", search_minutes=0.0)).notes
        assert note == (
            "in float the compiled graph is off by 5 % (for an unknown reason): read the accuracy"
        )
        with pytest.raises(edgevit.EdgevitError, match="its outputs err by 5 %"):
            convert(pictures, tmp_path / "float", precisions=("float",))
