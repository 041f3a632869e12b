"""Reading and running benchmark_model: every generation of its output, and a stand-in for the binary."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.bench import benchmark_model, benchmark_output
from edgevit.bench.transport import Completed, TransportError
from tests.bench import recorded_outputs as recorded


class Script:
    """A transport whose commands get prepared answers; remembers what it was asked."""

    name = "adb:1234"

    def __init__(self, answers: dict[str, Completed]) -> None:
        self.answers, self.asked, self.pushed = answers, list[list[str]](), list[str]()

    def run(self, argv: list[str], *, timeout_s: float, stdin: str = "") -> Completed:
        self.asked.append(list(argv))
        return self.answers.get(Path(argv[0]).name, Completed(0, "", ""))

    def push(self, local: Path, remote: str) -> None:
        self.pushed.append(f"{local.name} -> {remote}")


def files(folder: Path) -> tuple[Path, Path]:
    binary, artefact = folder / "benchmark_model", folder / "m.tflite"
    binary.write_bytes(b"")
    artefact.write_bytes(b"")
    return binary, artefact


@pytest.mark.parametrize(
    ("text", "n", "mean", "best", "load", "first", "p50", "p95"),
    [
        (recorded.TFLITE_2018, 50, 137.722, 137.079, 4.452, 146.161, None, None),
        (recorded.TFLITE_2021, 50, 2950.34, 2727.568, 17.187, 3512.391, None, None),
        (recorded.TFLITE_2023, 1061, 56.2658, 54.669, 3.337, 81.913, None, None),
        (recorded.TFLITE_2024, 337, 2.94227, 2.605, 6.395, 2.761, 2.781, 3.169),
        (recorded.TFLITE_LOGCAT, 10, 2719.85, 2640.862, 458.883, 2732.148, 2709.263, 3025.403),
        (recorded.LITERT_2026, 10, 7430.20, 7416.40, 23744.73, 7441.04, None, None),
    ],
    ids=["2018", "2021", "2023", "2024", "logcat", "litert-2"],
)
def test_times_of_every_generation_are_read_in_milliseconds(
    text: str,
    n: int,
    mean: float,
    best: float,
    load: float,
    first: float,
    p50: float | None,
    p95: float | None,
) -> None:
    timing = benchmark_output.parse(text)
    assert timing.n == n
    assert [timing.mean, timing.min, timing.load_ms, timing.first_ms] == pytest.approx(
        [mean, best, load, first]
    )
    assert [timing.p50, timing.p95] == [value and pytest.approx(value) for value in (p50, p95)]


def test_memory_and_delegate_are_read_where_they_are_printed() -> None:
    timing = benchmark_output.parse(recorded.TFLITE_2023)
    assert (timing.peak_mb, timing.delegate, timing.partitions) == (93.2383, "TfLiteXNNPackDelegate", 1)
    assert (timing.delegated_ops, timing.ops) == (58, 58)
    assert benchmark_output.parse(recorded.TFLITE_2024).memory_delta_mb == 40.8281
    assert benchmark_output.parse(recorded.LITERT_2026).memory_delta_mb == 6391.74
    assert benchmark_output.parse(recorded.LITERT_2026).peak_mb is None


def test_the_last_line_of_counts_is_the_measurement_not_the_warm_up() -> None:
    assert benchmark_output.parse(recorded.TFLITE_2024).max == 20.356


def test_output_cut_off_before_the_summary_is_refused() -> None:
    cut = recorded.TFLITE_2024[: recorded.TFLITE_2024.index("INFO: Inference timings")]
    with pytest.raises(TransportError, match="benchmark_model gave no result: "):
        benchmark_output.parse(cut)


def test_a_run_measures_each_number_of_threads_and_leaves_nothing(tmp_path: Path) -> None:
    transport = Script({"benchmark_model": Completed(0, "", recorded.TFLITE_2024)})
    found = benchmark_model.run_benchmark_model(transport, *files(tmp_path), [1, 4])
    assert list(found["latency"]["threads"]) == ["1", "4"]
    one = found["latency"]["threads"]["1"]
    assert (one["p50"], one["p90"], one["p99"]) == (2.781, None, None)
    assert one["throughput"] == pytest.approx(1000 / 2.94227)
    work = transport.asked[1][-1]
    assert work.startswith("/data/local/tmp/edgevit-")
    assert transport.pushed == [
        f"benchmark_model -> {work}/benchmark_model",
        f"m.tflite -> {work}/model.tflite",
    ]
    assert [argv[2] for argv in transport.asked if argv[0].endswith("/benchmark_model")] == [
        "--num_threads=1",
        "--num_threads=4",
    ]
    assert transport.asked[-1] == ["rm", "-rf", work]


def test_it_works_in_the_folder_asked_for_else_where_the_device_lets_it(tmp_path: Path) -> None:
    answers = {"benchmark_model": Completed(0, "", recorded.TFLITE_2024)}
    asked = Script(answers)
    benchmark_model.run_benchmark_model(asked, *files(tmp_path), [1], folder="/home/pi/work")
    assert asked.asked[0][-1].startswith("/home/pi/work/edgevit-")
    linux = Script({**answers, "test": Completed(1, "", "")})
    benchmark_model.run_benchmark_model(linux, *files(tmp_path), [1])
    assert linux.asked[1][-1].startswith("/tmp/edgevit-")


def test_a_build_for_another_processor_is_named(tmp_path: Path) -> None:
    words = "sh: ./benchmark_model: cannot execute binary file: Exec format error"
    transport = Script({"benchmark_model": Completed(126, "", words)})
    with pytest.raises(TransportError) as caught:
        benchmark_model.run_benchmark_model(transport, *files(tmp_path), [1])
    assert str(caught.value) == (
        "benchmark_model failed on adb:1234: exit code 126: sh: ./benchmark_model: cannot execute binary file: "
        "Exec format error. Take the build for this device's processor (android_arm64 or linux_arm64)."
    )
    assert transport.asked[-1][:2] == ["rm", "-rf"]


def test_an_op_it_does_not_know_asks_for_a_newer_build(tmp_path: Path) -> None:
    words = "ERROR: Didn't find op for builtin opcode 'GELU' version '2'. An older version may be supported."
    transport = Script({"benchmark_model": Completed(1, "", words)})
    with pytest.raises(TransportError, match="Take a newer benchmark_model: this one does not know an op"):
        benchmark_model.run_benchmark_model(transport, *files(tmp_path), [1])


def test_a_crash_names_its_signal(tmp_path: Path) -> None:
    transport = Script({"benchmark_model": Completed(139, "INFO: STARTING!", "Segmentation fault")})
    with pytest.raises(TransportError, match="killed by signal 11: Segmentation fault"):
        benchmark_model.run_benchmark_model(transport, *files(tmp_path), [1])


def test_more_than_one_partition_is_a_warning(tmp_path: Path) -> None:
    text = recorded.TFLITE_2023.replace("58 out of 58", "40 out of 58").replace("yielding 1", "yielding 7")
    found = benchmark_model.run_benchmark_model(
        Script({"benchmark_model": Completed(0, text, "")}), *files(tmp_path), [1]
    )
    assert found["warnings"][-1] == (
        "TfLiteXNNPackDelegate runs 40 of 58 ops in 7 pieces: data is copied at each seam"
    )
