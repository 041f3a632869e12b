"""The `edgevit` command and its error boundary: one line for what is expected, a log file for what is not."""

from __future__ import annotations

import errno
import importlib
import io
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from threading import Event

import click

from edgevit import __version__
from edgevit.cli.interrupt import EXIT_CODE, GRACE_S, LINE, heard
from edgevit.errors import EdgevitError

COMMANDS = {
    "bench": "edgevit.cli.bench",
    "boards": "edgevit.cli.boards",
    "bundle": "edgevit.cli.bundle",
    "cache": "edgevit.cli.cache",
    "convert": "edgevit.cli.convert",
    "doctor": "edgevit.cli.doctor",
    "finetune": "edgevit.cli.finetune",
    "inspect": "edgevit.cli.inspect",
    "prune-report": "edgevit.cli.prune_report",
    "predict": "edgevit.cli.predict",
    "report": "edgevit.cli.report",
    "sweep": "edgevit.cli.sweep",
    "toolchain": "edgevit.cli.toolchain",
    "try": "edgevit.cli.try_out",
}

PATIENT = {"bench", "boards"}  # commands that leave a board as it was before they end

# A full or read-only disk, a quota, a file size limit, permissions: nothing edgevit could do better.
OUTSIDE_FAULTS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM}
# And names that no file can have.
OUTSIDE_FAULTS |= {errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}

EPILOG = """\b
Examples:
  edgevit toolchain install rknn
  edgevit convert --target rk3588                      the bundled model: try it in one minute
  edgevit convert deit_tiny_patch16_224 --weights my.safetensors \\
      --calibration calib/ --validation val/ --target rk3588 --target tflite
"""


class LazyGroup(click.Group):
    """Imports a command's module only when it is used, so that --help stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(module).command
        return command


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgevit")
def cli() -> None:
    """Take a trained Vision Transformer to a Rockchip NPU or a mobile CPU, with proof.

    Each lossy step is measured against the float model on the same images.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; turn every ending into its message and exit code."""
    # Before torch loads: threads that wait awake cost a conversion several times its time beside other work, and
    # gain 4 % on a quiet machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Exit code of a command: 0, 1 expected error, 2 usage, 3 unexpected, 4 gate missed, 130 interrupted."""
    asked = list(sys.argv[1:] if arguments is None else arguments)
    grace_s = None if PATIENT & set(asked[:1]) else GRACE_S
    with heard(grace_s) as interrupted:
        code = ended(arguments, interrupted)
    return EXIT_CODE if interrupted.is_set() else code


def ended(arguments: Sequence[str] | None, interrupted: Event) -> int:
    """How a command ended, told to the user, as an exit code."""
    try:
        code = cli.main(args=arguments, prog_name="edgevit", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except EdgevitError as error:
        click.echo(f"error: {one_line(str(error))}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        if not interrupted.is_set():
            click.echo(LINE, err=True)
        return EXIT_CODE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing to tell it
        return 0
    except OSError as error:
        if error.errno not in OUTSIDE_FAULTS:
            return unexpected(error)
        where = f" {one_line(shortened(os.fsdecode(error.filename)))}" if error.filename else ""
        click.echo(f"error: cannot open or write{where}: {str(error.strerror).lower()}", err=True)
        return 1
    except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, the user gets one line and a log
        # What a library made of the interruption is no news.
        return EXIT_CODE if interrupted.is_set() else unexpected(error)


def unexpected(error: Exception) -> int:
    """Say that something unforeseen happened and where its trace is; exit code 3."""
    click.echo(f"error: unexpected {type(error).__name__}: {one_line(str(error))[:300]}", err=True)
    click.echo(f"       the trace and versions are in {write_log(error)}; please report it", err=True)
    return 3


def one_line(text: str) -> str:
    """Collapse whitespace and drop control characters: file names can hold anything."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def shortened(name: str) -> str:
    """The beginning and end of a name too long to read."""
    return name if len(name) <= 200 else f"{name[:90]}…{name[-90:]}"


def write_log(error: BaseException) -> Path:
    """Write versions and the trace of an unexpected error; return where."""
    import platformdirs

    folder = Path(platformdirs.user_log_dir("edgevit"))
    lines = [f"edgevit {__version__}, Python {platform.python_version()}, {platform.platform()}", *sys.argv]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        text = "\n".join([*lines, "", *traceback.format_exception(error)])
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError:  # nowhere to write: the trace itself is better than nothing
        traceback.print_exception(error)
        return Path("the lines above")
    return path
