"""The command line: parses, calls one library function, prints. It computes nothing."""

from edgevit.cli.group import main

__all__ = ["main"]
