"""Finds the data folders that ship with edgevit: edgevit/data in the wheel, beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """Path of a shipped data folder such as "boards" or "calibration"."""
    packaged = Path(__file__).parents[1] / "data" / name
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / name
