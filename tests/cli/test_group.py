"""Every ending of a command has its line and its exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from edgevit.cli import group
from edgevit.errors import InputError, QualityGateMissed


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            InputError("cannot read x", "no such file", "Check the path"),
            1,
            "error: cannot read x: no such file. Check the path.\n",
        ),
        (QualityGateMissed("a", "b", "C"), 4, "error: a: b. C.\n"),
        (InputError("cannot read a\nb\x1b[31m", "no", "Do"), 1, "error: cannot read a b [31m: no. Do.\n"),
        (
            OSError(28, "No space left on device", "/x/y"),
            1,
            "error: cannot open or write /x/y: no space left on device\n",
        ),
        (
            KeyboardInterrupt(),
            130,
            "interrupted: finished stages are kept, the same command goes on from there\n",
        ),
    ],
)
def test_endings(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(group.cli, "main", fail)
    assert group.run([]) == code
    assert capsys.readouterr().err == line


def test_unexpected_error_names_its_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(group.cli, "main", fail)
    assert group.run([]) == 3
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: unexpected ZeroDivisionError: division by zero"
    log = Path(second.split(" are in ")[1].split(";")[0])
    text = log.read_text()
    assert "edgevit 0" in text
    assert "Traceback" in text


def test_usage_error_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run(["convert", "--no-such-option"]) == 2
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize("command", group.COMMANDS)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run([command, "--help"]) == 0
    assert "Examples:" in capsys.readouterr().out


def test_every_option_has_help() -> None:
    def commands(command: click.Command) -> list[click.Command]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            children = [command.get_command(context, name) for name in command.list_commands(context)]
            return [found for child in children if child for found in commands(child)]
        return [command]

    missing = [
        f"{command.name} {parameter.name}"
        for command in commands(group.cli)
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert missing == []


def test_help_is_instant_and_loads_no_torch() -> None:
    script = """
import sys
from edgevit.cli.group import run
run(["--help"])
print("torch" in sys.modules, "rich" in sys.modules)
"""
    started = time.monotonic()
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert output.endswith("False False\n")
    assert time.monotonic() - started < 2  # half a second on a quiet machine


@pytest.mark.parametrize(("set_by_user", "found"), [(None, "passive"), ("active", "active")])
def test_threads_of_a_busy_machine_wait_asleep_unless_the_user_says_otherwise(
    set_by_user: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {} if set_by_user is None else {"OMP_WAIT_POLICY": set_by_user}
    monkeypatch.setattr(group.os, "environ", environment)
    with pytest.raises(SystemExit):
        group.main(["--version"])
    assert environment["OMP_WAIT_POLICY"] == found


SWALLOWS = """
import sys, time
from edgevit.cli import group

def main(**_):
    print("ready", flush=True)
    while True:  # as a vendor's code does that catches whatever its callbacks raise
        try:
            time.sleep(60)
        except BaseException:
            pass

group.cli.main = main
sys.exit(group.run(["convert"]))
"""


def test_ctrl_c_is_heard_even_where_the_exception_is_swallowed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SWALLOWS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.strip() == "interrupted: finished stages are kept, the same command goes on from there"
    assert time.monotonic() - sent < 5  # two seconds, and room for a busy machine


def test_a_command_that_ends_in_time_ends_by_itself_with_130() -> None:
    script = SWALLOWS.replace(
        "except BaseException:\n            pass", "except ZeroDivisionError:\n            pass"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr.count("interrupted")) == (130, 1)
