"""Boards behind the real adb client, against a small device on loopback."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgevit.bench import adb
from edgevit.bench.benchmark_model import measured, run_benchmark_model, thread_counts
from edgevit.bench.probe import probe
from edgevit.bench.transport import TransportError
from tests.bench.adb_device import MODERN, Device
from tests.bench.adb_server import adb_server, attach, needs_adb, path_without_python
from tests.bench.recorded_outputs import TFLITE_2024

pytestmark = [pytest.mark.adb, needs_adb]
# As old daemons announce themselves: no second shell protocol, no exit codes, a terminal in between.
OLD = ("cmd",)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with adb_server(tmp_path, monkeypatch):
        yield


@pytest.fixture(params=[MODERN, OLD], ids=["modern", "old"])
def device(request: pytest.FixtureRequest, server: None, tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "device", features=request.param)
    attach(made)
    yield made
    made.vanish()


@pytest.fixture
def modern(server: None, tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "device")
    attach(made)
    yield made
    made.vanish()


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited 30 s")


def wait_until_gone(process: subprocess.Popen[bytes]) -> None:
    process.wait(30)


def test_output_and_exit_code_come_back(device: Device) -> None:
    done = adb.connect(None).run(["sh", "-c", "echo one; echo two; exit 7"], timeout_s=20)
    assert (done.code, done.out) == (7, "one\ntwo\n")


def test_errors_come_back_apart_where_the_device_can(modern: Device) -> None:
    done = adb.connect(None).run(["sh", "-c", "echo out; echo err >&2"], timeout_s=20)
    assert (done.code, done.out, done.err) == (0, "out\n", "err\n")


def test_arguments_arrive_as_they_were_given(device: Device) -> None:
    words = ["a b", "c;d", "$HOME", "'quoted'", '"', "*", "", "é", "back\\slash"]
    done = adb.connect(None).run(["printf", "%s\\n", *words], timeout_s=20)
    assert done.out.splitlines() == words


def test_input_reaches_the_command(device: Device) -> None:
    done = adb.connect(None).run(["cat"], timeout_s=20, stdin="line one\nline two\n")
    assert done.out == "line one\nline two\n"
    assert list(device.tmp.iterdir()) == []


def test_a_command_without_input_sees_its_end(device: Device) -> None:
    assert adb.connect(None).run(["cat"], timeout_s=20).code == 0


def test_a_missing_command_is_an_exit_code_not_an_exception(device: Device) -> None:
    assert adb.connect(None).run(["python3-that-is-not-there"], timeout_s=20).code == 127


def test_a_device_without_python_says_so_by_exit_code(server: None, tmp_path: Path) -> None:
    device = Device(tmp_path / "device", environment=path_without_python(tmp_path / "bin"))
    attach(device)
    assert adb.connect(None).run(["python3", "-c", "1"], timeout_s=20).code == 127


def test_lines_arrive_while_the_command_still_runs(device: Device) -> None:
    seen: list[tuple[str, float]] = []
    start = time.monotonic()
    adb.connect(None).stream(
        ["sh", "-c", "echo first; sleep 1; echo last"],
        timeout_s=20,
        on_line=lambda line: seen.append((line, time.monotonic() - start)),
    )
    assert [line for line, _ in seen if line] == ["first", "last"]
    assert dict(seen)["last"] - dict(seen)["first"] > 0.8


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_files_arrive_whole_under_any_name(device: Device, tmp_path: Path, size: int) -> None:
    local = tmp_path / "a b;c 'é'.bin"
    local.write_bytes(bytes(index % 251 for index in range(size)))
    transport = adb.connect(None)
    transport.push(local, "/data/local/tmp/edgevit x;y/a b;c 'é'.bin")
    transport.pull("/data/local/tmp/edgevit x;y/a b;c 'é'.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == local.read_bytes()


def test_a_file_that_is_not_there_is_one_line(modern: Device, tmp_path: Path) -> None:
    with pytest.raises(TransportError) as caught:
        adb.connect(None).pull("/data/local/tmp/none", tmp_path / "back")
    assert str(caught.value) == (
        f"cannot copy /data/local/tmp/none from adb:{modern.serial}: failed to stat remote object "
        "'/data/local/tmp/none': No such file or directory. Check the path on the device."
    )


def test_a_full_disk_is_one_line(device: Device, tmp_path: Path) -> None:
    device.free_bytes = 10
    local = tmp_path / "model.tflite"
    local.write_bytes(bytes(100))
    with pytest.raises(TransportError) as caught:
        adb.connect(None).push(local, "/data/local/tmp/model.tflite")
    message = str(caught.value)
    assert message.startswith(
        f"cannot copy model.tflite to adb:{device.serial}:/data/local/tmp/model.tflite: failed to copy"
    )
    assert message.endswith(
        "remote couldn't create file: No space left on device. "
        "Make room on the device, or give another work folder."
    )


def test_a_device_that_vanishes_mid_run_is_named_and_its_process_hung_up(device: Device) -> None:
    transport = adb.connect(None)
    threading.Thread(target=lambda: (wait_for(lambda: any(device.processes)), device.vanish())).start()
    with pytest.raises(TransportError) as caught:
        transport.run(["sleep", "30"], timeout_s=20)
    assert str(caught.value) == (
        f"lost adb:{device.serial}: the connection broke off. "
        "Check cable, power and `adb devices`, then run the command again."
    )
    wait_until_gone(device.processes[-1])


def test_a_device_that_vanished_before_is_named(device: Device, tmp_path: Path) -> None:
    transport = adb.connect(None)
    device.vanish()
    for call in (
        lambda: transport.run(["true"], timeout_s=20),
        lambda: transport.pull("/data/local/tmp/x", tmp_path / "back"),
    ):
        with pytest.raises(TransportError, match=rf"^lost adb:{device.serial}: the connection broke off \("):
            call()


def test_a_command_that_hangs_is_ended_on_both_sides(device: Device) -> None:
    with pytest.raises(TransportError) as caught:
        adb.connect(None).run(["sleep", "30"], timeout_s=1)
    assert str(caught.value) == (
        f"sleep on adb:{device.serial} did not finish: 1 s passed. "
        "Check the board's load, then run the command again."
    )
    wait_for(lambda: any(device.processes))
    wait_until_gone(device.processes[-1])


def test_killing_edgevit_ends_what_ran_on_the_device(device: Device) -> None:
    script = "from edgevit.bench import adb; adb.connect(None).run(['sleep', '60'], timeout_s=90)"
    edgevit = subprocess.Popen([sys.executable, "-c", script])
    wait_for(lambda: any("sleep" in command for command in device.commands))
    edgevit.kill()
    edgevit.wait()
    wait_until_gone(device.processes[-1])


def test_no_device_says_how_to_attach_one(server: None) -> None:
    with pytest.raises(TransportError) as caught:
        adb.connect(None)
    assert str(caught.value) == (
        "cannot use adb: no device is attached. "
        "Plug it in and switch on USB debugging, or run: adb connect HOST:5555."
    )


def test_two_devices_need_a_choice(server: None, tmp_path: Path) -> None:
    serials = sorted(attach(Device(tmp_path / name)) for name in ("one", "two"))
    with pytest.raises(TransportError, match="^cannot choose an adb device: there are 2: ") as caught:
        adb.connect(None)
    assert all(serial in str(caught.value) for serial in serials)
    assert adb.connect(serials[1]).name == f"adb:{serials[1]}"


def test_an_unknown_serial_names_those_that_are_there(modern: Device) -> None:
    with pytest.raises(TransportError) as caught:
        adb.connect("10.0.0.7:5555")
    assert str(caught.value) == (
        f"cannot use adb:10.0.0.7:5555: attached are: {modern.serial}. Run: adb connect 10.0.0.7:5555."
    )


def test_no_client_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(TransportError) as caught:
        adb.connect(None)
    assert str(caught.value) == (
        "cannot use adb: the adb client is not installed. "
        "Install it (Debian, Ubuntu: sudo apt-get install adb) and run the command again."
    )


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("unauthorized", "the device does not trust this computer yet. Unlock the screen"),
        ("offline", "the device is offline. Unplug it"),
        ("no permissions (user in plugdev group; are your udev rules wrong?)", "this user may not open"),
        ("sideload", "the device is in sideload mode. Restart it: adb reboot"),
        ("host", "its state is 'host'. Check `adb devices`"),
    ],
)
def test_a_device_that_is_not_ready_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, state: str, why: str
) -> None:
    monkeypatch.setattr(adb, "devices", lambda: {"0123": state})
    with pytest.raises(TransportError) as caught:
        adb.connect(None)
    assert str(caught.value).startswith(f"cannot use adb:0123: {why}")


def stand_in(tmp_path: Path) -> tuple[Path, Path]:
    """A benchmark_model that says what a real one once said, and an artefact for it."""
    (tmp_path / "recorded").write_text(TFLITE_2024)
    binary = tmp_path / "benchmark_model"
    binary.write_text(f"#!/bin/sh\n[ -s \"${{1#--graph=}}\" ] || exit 1\ncat '{tmp_path}/recorded' >&2\n")
    artefact = tmp_path / "a b;c.tflite"
    artefact.write_bytes(b"TFL3")
    return binary, artefact


def test_benchmark_model_runs_there_and_leaves_nothing(device: Device, tmp_path: Path) -> None:
    found = run_benchmark_model(adb.connect(None), *stand_in(tmp_path), [1, 2])
    assert found["latency"]["threads"]["2"]["p50"] == 2.781
    assert list(device.tmp.iterdir()) == []


def test_a_measurement_says_what_it_was_made_on(modern: Device, tmp_path: Path) -> None:
    found = measured(adb.connect(None), *stand_in(tmp_path), target="android-arm64", precision="int8")
    assert found["where"] == f"adb:{modern.serial}"
    assert found["how"] == f"measured on {found['machine']['model']}"
    assert found["artefact"] == "a b;c.tflite"
    assert list(found["latency"]["threads"]) == [str(n) for n in thread_counts(found["machine"]["cores"])]
    assert found["clocks"]["pinned"] is False
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_threads_double_up_to_the_cores(cores: int, counts: list[int]) -> None:
    assert thread_counts(cores) == counts


def test_a_board_is_probed_over_adb(device: Device) -> None:
    facts = probe(adb.connect(None), python=sys.executable)
    assert facts.where == f"adb:{device.serial}"
    assert facts.kernel == platform.release()
    assert facts.python == platform.python_version()
    assert facts.modules["onnxruntime"] == importlib.metadata.version("onnxruntime")


def test_a_board_without_python_is_probed_over_adb(server: None, tmp_path: Path) -> None:
    attach(Device(tmp_path / "device", environment=path_without_python(tmp_path / "bin")))
    facts = probe(adb.connect(None))
    assert (facts.python, facts.modules) == (None, {})
    assert facts.kernel == platform.release()
