"""Everything edgevit raises on purpose: one line that says what, why and what to do.

EdgevitError            exit code 1
├── InputError          something the user gave can't be used
├── ParityError         a step that promised the same function changed the outputs
├── ToolchainError      a vendor toolchain is missing, damaged or timed out
│   └── ToolFailed      a vendor's tool refused what it was given, or died of it
└── QualityGateMissed   exit code 4: the artefacts are kept and marked
"""

from __future__ import annotations


class EdgevitError(Exception):
    """What failed, why, and what to do: printed as one line."""

    exit_code = 1

    def __init__(self, what: str, why: str, fix: str) -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(f"{what}: {why}. {fix}.")

    def __reduce__(self) -> tuple[type[EdgevitError], tuple[str, str, str]]:
        """How it travels from a process to another."""
        return type(self), (self.what, self.why, self.fix)


class InputError(EdgevitError):
    """Something the user gave can't be used."""


class ParityError(EdgevitError):
    """A step that promised the same function changed the outputs."""


class ToolchainError(EdgevitError):
    """A vendor toolchain is missing, damaged or timed out."""


class ToolFailed(ToolchainError):
    """A vendor's tool refused what it was given, or died of it: it may take the same in another form."""


class QualityGateMissed(EdgevitError):
    """An artefact lost more accuracy than the user allowed."""

    exit_code = 4
