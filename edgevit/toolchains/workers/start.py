"""Starts a script or a module that must not outlive edgevit: `python -I start.py PARENT (SCRIPT | -m MODULE) ...`.

PARENT is the process id of edgevit: if that is killed, the kernel kills this process too. It is asked for here
and not between fork and exec, where Python code can deadlock when the parent has threads.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec


def main() -> None:
    """Tie this process to its parent, then become what was asked for."""
    parent, target, *rest = sys.argv[1:]
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # killed before the line above
            sys.exit(1)
    if target == "-m":
        module, *rest = rest
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [target, *rest]
        runpy.run_path(target, run_name="__main__")


if __name__ == "__main__":
    main()
