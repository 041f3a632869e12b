"""A work folder on a board for a program that is copied there, run and removed, where no guard can keep it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgevit.bench.benchmark_output import reason
from edgevit.bench.transport import Transport, TransportError


@contextmanager
def remote_folder(transport: Transport, base: str | None) -> Iterator[str]:
    """A new folder in `base`, or in the usual one, removed at the end.

    Raises TransportError if it can't be made.
    """
    work = f"{base or usual_folder(transport)}/edgevit-{secrets.token_hex(6)}"
    expect(transport, ["mkdir", "-p", work])
    try:
        yield work
    finally:
        remove(transport, work)


def usual_folder(transport: Transport) -> str:
    """Where a device's shell user may run files: Android's own folder where there is one, else /tmp."""
    android = "/data/local/tmp"
    return android if transport.run(["test", "-w", android], timeout_s=30).code == 0 else "/tmp"


def expect(transport: Transport, argv: Sequence[str]) -> None:
    """Run a command that must work. Raises TransportError with its own words."""
    done = transport.run(argv, timeout_s=30)
    if done.code != 0:
        raise TransportError(
            f"cannot prepare {transport.name}",
            f"{' '.join(argv[:2])}: {reason(done.err or done.out)}",
            "Choose a work folder that the shell user may write",
        )


def remove(transport: Transport, work: str) -> None:
    """Delete the work folder; a lost device can't be cleaned, and the reason it was lost matters more."""
    try:
        transport.run(["rm", "-rf", work], timeout_s=30)
    except TransportError:
        return
