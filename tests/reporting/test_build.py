"""Everything in a run directory reaches the report; what is missing is said, and nothing crashes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgevit.errors import InputError
from edgevit.reporting import html, markdown
from edgevit.reporting.build import build
from edgevit.reporting.content import Artefact, Report
from edgevit.run.reading import read_run
from tests.reporting import runs


def report_on(*folders: Path) -> Report:
    """The report on run folders, rendered as well: a renderer must take whatever building gives."""
    made = build([read_run(folder, "cannot report on") for folder in folders])
    for render in (html.render, markdown.render):
        assert render(made)
    json.dumps(made.to_json())
    return made


def first(report: Report) -> Artefact:
    """The first artefact."""
    return report.runs[0].artefacts[0]


def test_losses_changes_and_classes_are_those_of_the_arrays(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run", lost=6, won=2)
    each = first(report_on(tmp_path / "run"))
    assert each.loss is not None and each.changes is not None and each.classes is not None
    assert (each.loss.n, each.loss.lost, each.loss.won, each.loss.drop_points) == (200, 6, 2, 2.0)
    assert each.changes.total == 8
    assert [image.kind for image in each.changes.shown] == ["lost"] * 6 + ["won"] * 2
    image = each.changes.shown[0]
    assert image.before == image.truth != image.after
    assert image.thumbnail is not None and image.thumbnail.startswith("data:image/jpeg;base64,")
    assert sum(row.lost for row in (*each.classes.worst, *each.classes.best)) <= 6


def test_shown_images_are_bounded(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run", lost=150)
    each = first(report_on(tmp_path / "run"))
    assert each.changes is not None
    assert (each.changes.total, len(each.changes.shown)) == (152, 18)


def test_classes_have_numbers_until_someone_names_them(tmp_path: Path) -> None:
    manifest = runs.write_run(tmp_path / "run")
    each = first(report_on(tmp_path / "run"))
    assert each.changes is not None and each.changes.shown[0].before.startswith("class ")
    manifest["images"]["validation"]["class_names"] = ["ant", "bee", "cat", "dog"]
    runs.save(tmp_path / "run", manifest)
    each = first(report_on(tmp_path / "run"))
    assert each.changes is not None and each.changes.shown[0].before in ("ant", "bee", "cat", "dog")


def test_waterfall_goes_through_the_reductions(tmp_path: Path) -> None:
    manifest = runs.write_run(tmp_path / "run")
    accuracy = {**manifest["results"][0]["accuracy"], "top1": 0.9, "drop_points": 9.0}
    manifest["reductions"] = [
        {"stage": "192 x 192", "accuracy": accuracy, "parameters": 5_000_000, "details": {"what": ""}}
    ]
    runs.save(tmp_path / "run", manifest)
    rows = report_on(tmp_path / "run").runs[0].waterfall
    assert [(row.kind, row.name) for row in rows] == [
        ("float", "float deit"),
        ("reduction", "192 x 192"),
        ("artefact", "rk3588 int8"),
        ("artefact", "tflite int8"),
    ]
    assert rows[1].before == rows[0].top1
    assert rows[2].before == rows[3].before == 0.9


def test_of_a_graph_the_error_is_drawn_in_order_of_its_tensors(tmp_path: Path) -> None:
    manifest = runs.write_run(tmp_path / "run")
    runs.diagnosed(manifest["results"][0])
    kept = "/stages/stages.1/<b>attn/Add_output_0"
    names = ["/stem/Conv_output_0", "/stages/stages.0/mlp/MatMul_output_0", kept]
    result = manifest["results"][0]
    result["diagnosis"]["effects"] = {name: 0.001 * number for number, name in enumerate(names, 1)}
    result["plan"]["sixteen_bit"] = [kept]
    runs.save(tmp_path / "run", manifest)
    each = first(report_on(tmp_path / "run"))
    assert each.heat is not None
    assert each.heat.blocks == ()
    assert each.heat.order == tuple(zip(names, (0.001, 0.002, 0.003), (False, False, True), strict=True))
    page = html.render(report_on(tmp_path / "run"))
    assert "error at 3 tensors in order" in page
    assert page.count('class="error kept"') == 2  # the tensor, and the legend
    assert "stages.0</text>" in page
    assert "&lt;b&gt;attn/Add_output_0: 0.003, kept in 16 bits" in page


def test_diagnosis_plan_and_search_are_shown(tmp_path: Path) -> None:
    manifest = runs.write_run(tmp_path / "run")
    runs.diagnosed(manifest["results"][0])
    runs.save(tmp_path / "run", manifest)
    each = first(report_on(tmp_path / "run"))
    assert each.massive == "block 7's fc2 writes 580 into channel 133 for 0.4 % of tokens"
    assert each.heat is not None and each.precision_plan is not None
    assert (each.heat.kinds, each.heat.blocks) == (runs.KINDS, (0, 1, 2))
    assert each.heat.cells[2] == (0.003,) * 4
    assert each.heat.outside == (("embed", 0.0004),)
    assert (
        each.precision_plan.description
        == "int8, 1 tensors kept in 16 bits, ranges chosen by the vendor's tool"
    )
    assert each.precision_plan.conditioning == (("rotate", "kept, error 0.0600 to 0.0300"),)
    assert [(trial.cost, trial.state) for trial in each.precision_plan.trials] == [
        ("1.28 M cycles, about 12.6 ms", "chosen"),
        ("12.0 ms, 1.30x as fast as float", "good enough"),
        ("", "the converter stopped"),
    ]


@pytest.mark.parametrize(
    ("ratio", "words"), [(1.29, "1.29x as fast as float"), (0.5, "2.00x as slow as float")]
)
def test_a_speed_measured_against_float_is_a_gain_with_its_label(
    tmp_path: Path, ratio: float, words: str
) -> None:
    manifest = runs.write_run(tmp_path / "run")
    manifest["results"][1]["search"] = {
        "explanation": "static keeps it",
        "chosen": {"latency_ratio": ratio, "how": "host CPU"},
    }
    runs.save(tmp_path / "run", manifest)
    gain = report_on(tmp_path / "run").runs[0].artefacts[1].gains[0]
    assert (gain.value, gain.how) == (words, "host CPU")


def test_placement_names_what_left_the_npu(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run")
    report = report_on(tmp_path / "run")
    npu, mobile = report.runs[0].artefacts
    assert npu.placement is not None and mobile.delegate is not None
    assert npu.placement.cycles == 1000
    assert [op[:2] for op in npu.placement.cpu_ops] == [("Softmax", 1)]
    assert [bar.part for bar in npu.placement.layers] == ["convolutions", "norms", "cpu"]
    assert mobile.delegate.operations[0] == ("GELU", 1, 1)


def test_measurements_on_a_board_are_matched_and_decide(tmp_path: Path) -> None:
    manifest = runs.write_run(tmp_path / "run", n=1000, lost=0, won=0)
    measured = runs.bench("deit-rk3588-int8.rknn")
    worse = {**manifest["results"][0]["accuracy"], "drop_points": 9.0, "drop_low": 7.0, "drop_high": 11.0}
    runs.save_bench(tmp_path / "run", "rock", {**measured, "accuracy": worse})
    npu, mobile = report_on(tmp_path / "run").runs[0].artefacts
    assert npu.verdict.answer == "no"
    assert "measured on Radxa ROCK 5B" in npu.verdict.because
    assert mobile.verdict.answer == "yes"
    assert mobile.benches == ()
    assert npu.gains[0].value == "8.00 ms"
    assert npu.gains[0].how == "measured on Radxa ROCK 5B"
    assert npu.benches[0].same_as_local == (
        "same answers as the local evaluation on 49 of 50 images, largest output difference 0.25"
    )


def test_the_hosts_accuracy_is_never_shown_as_a_boards(tmp_path: Path) -> None:
    manifest = runs.write_run(tmp_path / "run", n=1000, lost=0, won=0)
    measured = runs.bench("deit-rk3588-int8.rknn", how="host CPU")
    worse = {**manifest["results"][0]["accuracy"], "drop_points": 9.0, "drop_low": 7.0, "drop_high": 11.0}
    runs.save_bench(tmp_path / "run", "host", {**measured, "accuracy": worse})
    each = first(report_on(tmp_path / "run"))
    assert each.board_losses == ()
    assert each.verdict.answer == "yes"


def test_a_host_never_shares_an_axis_with_a_board(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run")
    runs.save_bench(tmp_path / "run", "rock", runs.bench("deit-rk3588-int8.rknn"))
    runs.save_bench(tmp_path / "run", "host", runs.bench("deit-tflite-int8.tflite", how="host CPU", p50=3.0))
    assert {plot.how for plot in report_on(tmp_path / "run").paretos} == {"file size"}
    runs.save_bench(tmp_path / "run", "pi", runs.bench("deit-tflite-int8.tflite", p50=30.0))
    plots = {plot.how: plot for plot in report_on(tmp_path / "run").paretos}
    assert set(plots) == {"file size", "measured on boards"}
    assert [point.cost for point in plots["measured on boards"].points] == [8.0, 30.0]
    assert [point.best for point in plots["measured on boards"].points] == [True, False]


def test_a_tool_that_tells_only_means_is_taken_at_its_word(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run")
    measured = runs.bench("deit-tflite-int8.tflite", how="measured on Pixel 9")
    only_means = {"n": 60, "mean": 7.5, "p50": None, "p90": None, "p99": None, "samples_ms": []}
    measured["latency"] = {"threads": {"1": {**only_means, "mean": 12.0}, "2": only_means}, "best": "2"}
    runs.save_bench(tmp_path / "run", "phone", measured)
    gain = report_on(tmp_path / "run").runs[0].artefacts[1].gains[0]
    assert (gain.value, gain.note) == ("7.50 ms", "mean of 60 runs, 2 threads; clocks pinned")


def test_npu_core_masks_are_settings_of_their_own(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run")
    measured = runs.bench("deit-rk3588-int8.rknn")
    row = measured["latency"]["threads"]["1"]
    both = {**row, "p50": 9.0}
    masks = {"0": row, "0_1_2": {**row, "p50": 5.0}, "one model each, 3 side by side": both}
    measured |= {"latency": {"threads": {"1": row}, "best": "1"}, "core_masks": masks}
    runs.save_bench(tmp_path / "run", "rock", measured)
    bench = first(report_on(tmp_path / "run")).benches[0]
    assert [each.setting for each in bench.sweep] == [
        "NPU cores 0",
        "NPU cores 0_1_2",
        "one model each, 3 side by side",
    ]
    assert bench.fastest is not None and bench.fastest.setting == "NPU cores 0_1_2"


def test_layers_that_the_runtime_timed_are_shown_slowest_first(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run")
    runs.save_bench(tmp_path / "run", "rock", runs.bench("deit-rk3588-int8.rknn"))
    report = report_on(tmp_path / "run")
    bench = first(report).benches[0]
    assert [(each.name, each.us) for each in bench.slowest] == [
        ("/attn/Softmax", 2100),
        ("/patch_embed/Conv", 900),
    ]
    page = html.render(report)
    assert "timed by the runtime (3,000 µs in all" in page
    assert re.search(r"/attn/Softmax</td><td>exSoftmax13</td><td>CPU</td>.*2,100.*70 %", page)
    assert "/attn/Softmax on the CPU: 2,100 µs (0 cycles by the compiler)" in markdown.render(report)


def test_cycles_of_two_boards_are_not_compared(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "a", targets=("rk3588",))
    runs.write_run(tmp_path / "b", targets=("rk3566",))
    runs.write_run(tmp_path / "c", targets=("rk3588",), lost=1)
    units = {plot.unit for plot in report_on(*(tmp_path / name for name in "abc")).paretos}
    assert units == {"ms", "MB", "cycles on rk3588"}


def test_runs_on_other_images_are_flagged(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "a")
    other = runs.write_run(tmp_path / "b")
    other["images"]["validation"]["key"] = "another"
    runs.save(tmp_path / "b", other)
    cautions = report_on(tmp_path / "a", tmp_path / "b").cautions
    assert cautions[0] == (
        "The runs were measured on different validation images: compare losses, never top-1."
    )


def test_runs_of_one_name_go_by_their_paths(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        runs.write_run(tmp_path / parent / "run", n=20)
    report = report_on(tmp_path / "a" / "run", tmp_path / "b" / "run")
    assert [run.name for run in report.runs] == [str(tmp_path / parent / "run") for parent in ("a", "b")]


def test_the_command_is_the_one_typed_or_says_that_it_is_not(tmp_path: Path) -> None:
    manifest = runs.write_run(tmp_path / "run", targets=("tflite",))
    run = report_on(tmp_path / "run").runs[0]
    assert run.command_from == "put together from the configuration"
    assert run.command == (
        "edgevit convert deit --weights 'my weights.safetensors' --target tflite --precision int8 "
        "--recipe vendor-default"
    )
    manifest["command"] = ["convert", "deit", "--out", "a b"]
    runs.save(tmp_path / "run", manifest)
    run = report_on(tmp_path / "run").runs[0]
    assert (run.command, run.command_from) == ("edgevit convert deit --out 'a b'", "as it was typed")


def test_missing_arrays_are_a_stated_omission(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "stages" / "rk3588-int8-0")
    (tmp_path / "run" / "stages" / "tflite-int8-0" / "outputs.npy").write_bytes(b"damaged")
    report = report_on(tmp_path / "run")
    assert report.runs[0].omissions == (
        "rk3588 int8, classes and images: outputs.npy of a stage is gone from the run directory",
        "tflite int8, classes and images: tflite-int8-0/outputs.npy is damaged",
    )
    assert first(report).loss is not None
    assert report.runs[0].omissions[0] in html.render(report)


def test_gone_pixels_leave_images_without_thumbnails(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run")
    (tmp_path / "run" / "stages" / "validation-0" / "pixels.npy").unlink()
    (tmp_path / "run" / "stages" / "validation-0" / "images.json").unlink()
    each = first(report_on(tmp_path / "run"))
    assert each.changes is not None
    assert (each.changes.shown[0].thumbnail, each.changes.shown[0].name) == (None, "image 2")


def test_arrays_outside_the_run_are_never_read(tmp_path: Path) -> None:
    manifest = runs.write_run(tmp_path / "run")
    secret = tmp_path / "secret"
    secret.mkdir()
    np.save(secret / "outputs.npy", np.zeros((200, 4)))
    for record in manifest["stages"]:
        record["folder"] = "../../secret"
    runs.save(tmp_path / "run", manifest)
    with pytest.raises(InputError, match="stages.0.folder: is not the plain name of a file"):
        report_on(tmp_path / "run")


def test_a_run_without_validation_images_can_be_reported(tmp_path: Path) -> None:
    manifest = runs.write_run(tmp_path / "run")
    for result in manifest["results"]:
        result["accuracy"] = None
    manifest["images"] = {"calibration": None, "validation": None}
    runs.save(tmp_path / "run", manifest)
    report = report_on(tmp_path / "run")
    assert first(report).verdict.answer == "can't tell"
    assert report.runs[0].waterfall == ()


@pytest.mark.parametrize(
    "key", ["latency", "machine", "clocks", "accuracy", "same_as_local", "versions", "how"]
)
def test_a_damaged_measurement_is_named_and_left_out(tmp_path: Path, key: str) -> None:
    runs.write_run(tmp_path / "run", n=20)
    runs.save_bench(tmp_path / "run", "rock", {**runs.bench("deit-rk3588-int8.rknn"), key: 7})
    report = report_on(tmp_path / "run")
    assert report.runs[0].omissions[0].startswith(f"bench/rock.json is not a measurement: {key}")
    assert first(report).benches == ()


def test_a_measurement_that_is_not_json_is_named(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "run", n=20)
    (tmp_path / "run" / "bench").mkdir()
    (tmp_path / "run" / "bench" / "rock.json").write_text("{")
    assert report_on(tmp_path / "run").runs[0].omissions == ("bench/rock.json is not JSON",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "it has no manifest.json. Give the folder of a finished run"),
        ("{", "manifest.json is not JSON. Run edgevit convert again with this --out"),
        ("[]", "manifest.json is not one of edgevit's. Run edgevit convert again with this --out"),
        ('{"format": 99}', "its manifest has format 99, this edgevit knows 3. Update edgevit"),
        (
            '{"format": 1, "model": {}, "results": []}',
            "its manifest has format 1, of an older edgevit. Run edgevit convert again with this --out",
        ),
        (
            '{"format": 2, "edgevit": "1", "written": "", "configuration": {"model": "a"}, "model": {"name": 3}}',
            "manifest.json: model.name: input should be a valid string. Run edgevit convert again with this --out",
        ),
    ],
)
def test_an_unusable_manifest_is_one_clear_line(tmp_path: Path, text: str | None, why: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError) as error:
        read_run(tmp_path, "cannot report on")
    assert str(error.value) == f"cannot report on {tmp_path}: {why}."


def test_a_folder_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_run(tmp_path / "gone", "cannot report on")
    assert (
        str(error.value) == f"cannot report on {tmp_path / 'gone'}: no such folder. Give the folder of a run."
    )
