"""Class names come from a file, or from a set that timm knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.errors import InputError
from edgevit.images.labels import read_labels


def test_imagenet_names_are_in_class_order_and_differ() -> None:
    names = read_labels("imagenet-1k")
    assert (len(names), len(set(names))) == (1000, 1000)
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")


def test_a_file_has_one_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffant\n b\u00e9e \ncat\n\n", encoding="utf-8")
    assert read_labels(str(path)) == ("ant", "b\u00e9e", "cat")


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "it is empty"), (b"\xff\xfe\x00", "it is not UTF-8 text")]
)
def test_a_file_without_names_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f": {why}"):
        read_labels(str(path))
