"""Boards and phones behind the `adb` client.

The client joins its arguments into one line for the device's shell, so every argument is quoted here. Where the
device speaks adb's second shell protocol (Android 7 and later) output, errors and exit codes come back apart;
the old daemons on many Rockchip Linux images merge them and drop the exit code, so there the line prints it.
"""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit.bench.process import converse
from edgevit.bench.transport import Completed, TransportError

INSTALL = "Install it (Debian, Ubuntu: sudo apt-get install adb) and run the command again"
ANSWER_SECONDS = 30.0
COPY_SECONDS = 600.0
COPY_BYTES_A_SECOND = 250_000  # slower than that over USB or Wi-Fi is a hang

STATES = {
    "unauthorized": (
        "the device does not trust this computer yet",
        'Unlock the screen and accept "Allow USB debugging", then run the command again',
    ),
    "authorizing": ("the device is still deciding whether to trust this computer", "Accept on its screen"),
    "offline": (
        "the device is offline",
        "Unplug it and plug it in again, or run: adb kill-server && adb reconnect offline",
    ),
    "no permissions": (
        "this user may not open the USB device",
        "Install udev rules (Debian, Ubuntu: sudo apt-get install android-sdk-platform-tools-common) "
        "and plug it in again",
    ),
    "recovery": ("the device is in recovery mode", "Restart it: adb reboot"),
    "sideload": ("the device is in sideload mode", "Restart it: adb reboot"),
    "bootloader": ("the device is in its bootloader", "Restart it: fastboot reboot"),
}


@dataclass(frozen=True)
class AdbTransport:
    """One device; `separate` tells whether its shell returns errors and exit codes apart from output."""

    serial: str
    separate: bool

    @property
    def name(self) -> str:
        return f"adb:{self.serial}"

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: str = "") -> Completed:
        """Run a command and wait for it. Raises TransportError for a lost device or `timeout_s` passed."""
        return self._shell(argv, timeout_s, stdin, lambda line: None)

    def stream(self, argv: Sequence[str], *, timeout_s: float, on_line: Callable[[str], None]) -> Completed:
        """Like `run`, calling `on_line` with each line of output as it comes."""
        return self._shell(argv, timeout_s, "", on_line)

    def push(self, local: Path, remote: str) -> None:
        """Copy a file to the device. Raises TransportError with the device's reason."""
        self._copy("push", local, [str(local.resolve()), remote], f"{local.name} to {self.name}:{remote}")

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file from the device. Raises TransportError with the device's reason."""
        self._copy("pull", None, [remote, str(local.resolve())], f"{remote} from {self.name}")

    def close(self) -> None:
        """Nothing is held open: the client's server belongs to the user."""

    def _shell(
        self, argv: Sequence[str], timeout_s: float, stdin: str, on_line: Callable[[str], None]
    ) -> Completed:
        mark = f"edgevit-{secrets.token_hex(8)}="
        if self.separate:
            # In the background, so that the shell can pass on the hang-up of a lost connection while it waits.
            line = (
                f"exec 3<&0; {shlex.join(argv)} <&3 3<&- & p=$!; trap 'kill -HUP $p' HUP TERM; "
                f"wait $p; echo {mark}$? >&2"
            )
        else:
            line = f"{shlex.join(argv)}{self._old_stdin(stdin)}; code=$?; echo; echo {mark}$code"
        command = [adb(), "-s", self.serial, "shell", *(["-T"] if self.separate else []), line]
        done = converse(
            f"{argv[0]} on {self.name}",
            command,
            timeout_s,
            stdin if self.separate else "",
            lambda text: None if text.startswith(mark) else on_line(text),
        )
        # The client of Debian 12 ends with 0 when the device vanishes: only the mark proves that it was finished.
        out, err = done.out.replace("\r\n", "\n"), done.err
        body, found, code = (err if self.separate else out).rpartition(mark)
        if not found:
            raise self._lost(err)
        if self.separate:
            return Completed(int(code.split()[0]), done.out, body)
        return Completed(int(code.split()[0]), body.removesuffix("\n"), "")

    def _old_stdin(self, text: str) -> str:
        """The old daemons put a terminal between, which garbles input: it goes through a file instead."""
        if not text:
            return " </dev/null"
        remote = f"/data/local/tmp/edgevit-{secrets.token_hex(8)}"
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "input"
            local.write_text(text, encoding="utf-8")
            self.push(local, remote)
        return f" <{remote}; code=$?; rm -f {remote}; (exit $code)"

    def _copy(self, verb: str, local: Path | None, ends: list[str], what: str) -> None:
        size = local.stat().st_size if local else 0
        patience = COPY_SECONDS + size / COPY_BYTES_A_SECOND
        done = client(["-s", self.serial, verb, *ends], patience)
        if done.code != 0:
            why = last_reason(done.err + "\n" + done.out)
            if said_lost(why):
                raise self._lost(why)
            raise TransportError(f"cannot copy {what}", why, copy_fix(why))

    def _lost(self, err: str) -> TransportError:
        why = last_reason(err)
        return TransportError(
            f"lost {self.name}",
            f"the connection broke off ({why})" if why else "the connection broke off",
            "Check cable, power and `adb devices`, then run the command again",
        )


def connect(serial: str | None = None) -> AdbTransport:
    """The device with that serial, or the only one. Raises TransportError saying what to do."""
    listed = devices()
    chosen = choose(listed, serial)
    state = listed[chosen]
    if state != "device":
        known = next((words for key, words in STATES.items() if state.startswith(key)), None)
        why, fix = known or (f"its state is {state!r}", "Check `adb devices`")
        raise TransportError(f"cannot use adb:{chosen}", why, fix)
    features = client(["-s", chosen, "features"], ANSWER_SECONDS).out.split()
    return AdbTransport(chosen, "shell_v2" in features)


def devices() -> dict[str, str]:
    """Serial to state ("device" is ready) of what the client sees."""
    done = client(["devices"], ANSWER_SECONDS)
    if done.code != 0:
        raise TransportError(
            "cannot use adb", last_reason(done.err) or "its server does not start", "Run: adb start-server"
        )
    rows = (line.split("\t", 1) for line in done.out.splitlines() if "\t" in line)
    return {serial: state.strip() for serial, state in rows}


def choose(listed: dict[str, str], serial: str | None) -> str:
    """The serial to use. Raises TransportError where there is none or it isn't clear which."""
    names = ", ".join(listed)
    if serial is None:
        if len(listed) == 1:
            return next(iter(listed))
        if listed:
            raise TransportError(
                "cannot choose an adb device",
                f"there are {len(listed)}: {names}",
                f"Say adb:{next(iter(listed))}",
            )
        raise TransportError(
            "cannot use adb",
            "no device is attached",
            "Plug it in and switch on USB debugging, or run: adb connect HOST:5555",
        )
    if serial not in listed:
        fix = f"Run: adb connect {serial}" if ":" in serial else "Check `adb devices`"
        raise TransportError(
            f"cannot use adb:{serial}", f"attached are: {names}" if names else "no device is attached", fix
        )
    return serial


def adb() -> str:
    """Path of the client. Raises TransportError with the command that installs it."""
    found = shutil.which("adb")
    if found is None:
        raise TransportError("cannot use adb", "the adb client is not installed", INSTALL)
    return found


def client(arguments: Sequence[str], timeout_s: float) -> Completed:
    """One call of the client. Raises TransportError if it doesn't answer in time."""
    try:
        done = subprocess.run(
            [adb(), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise TransportError(
            f"adb {arguments[-1] if len(arguments) < 3 else arguments[2]} hangs",
            f"no answer in {timeout_s:.0f} s",
            "Run: adb kill-server, plug the device in again",
        ) from None
    return Completed(done.returncode, done.stdout, done.stderr)


def said_lost(text: str) -> bool:
    """Whether the client's own words mean that the device is gone."""
    return bool(
        re.search(r"error: closed|device offline|device '.*' not found|no devices|protocol fault", text)
    )


def last_reason(text: str) -> str:
    """The client's last line that says why, without its own prefixes."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = [line for line in lines if "error" in line or "failed" in line or "cannot" in line] or lines
    words = re.sub(r"^(adb: )?(error: )?", "", wrong[-1]) if wrong else ""
    return words.rstrip(".")[:300]


def copy_fix(why: str) -> str:
    """What to do about a failed copy."""
    if "No space left" in why:
        return "Make room on the device, or give another work folder"
    if "Permission denied" in why or "Read-only" in why:
        return "Choose a work folder that the shell user may write"
    return "Check the path on the device"
