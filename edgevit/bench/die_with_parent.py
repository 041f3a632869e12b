"""Becomes a program that must not outlive edgevit: `python -I -S tied.py PARENT PROGRAM ...`.

PARENT is the process id of edgevit: if that is killed, the kernel ends this program too, the client lets go of the
board, and the board ends what ran there. Asked for here and not between fork and exec, where Python code can
deadlock when the parent has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec


def main() -> None:
    """Tie this process to its parent, then become the program."""
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # killed before the line above
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
