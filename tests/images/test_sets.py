from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from edgevit.errors import InputError
from edgevit.images import ImageSet, read_image_set, refuse_overlap
from edgevit.progress import Quiet

from .pictures import save


def read(
    source: Path, num_classes: int = 3, *, labelled: bool = True, limit: int | None = None, seed: int = 0
) -> ImageSet:
    return read_image_set(
        source, num_classes=num_classes, labelled=labelled, limit=limit, seed=seed, progress=Quiet()
    )


def exactly(line: str) -> str:
    return f"^{re.escape(line)}$"


def class_folders(root: Path, names: list[str], images: int = 2) -> Path:
    for position, name in enumerate(names):
        for number in range(images):
            save(root / name / f"{number}.png", seed=position * images + number)
    return root


def test_classes_are_numbered_by_sorted_folder_name(tmp_path: Path) -> None:
    images = read(class_folders(tmp_path, ["cat", "ant", "bee"]))
    assert images.class_names == ("ant", "bee", "cat")
    assert [(path.parent.name, label) for path, label in zip(images.paths, images.labels or (), strict=True)] == [
        ("ant", 0), ("ant", 0), ("bee", 1), ("bee", 1), ("cat", 2), ("cat", 2)
    ]  # fmt: skip


def test_empty_class_folder_keeps_its_number(tmp_path: Path) -> None:
    class_folders(tmp_path, ["ant", "cat"])
    (tmp_path / "bee").mkdir()
    assert read(tmp_path).labels == (0, 0, 2, 2)


def test_wordnet_folders_take_imagenet_numbers(tmp_path: Path) -> None:
    images = read(class_folders(tmp_path, ["n02099601", "n01440764"], images=1), 1000)
    assert images.labels == (0, 207)  # tench, golden retriever


def test_unknown_wordnet_folder_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path, ["n01440764", "n99999999"])
    line = (
        f"cannot label {tmp_path}: n99999999 is not one of ImageNet's 1000 classes. "
        "Remove the folder or give a CSV path,label."
    )
    with pytest.raises(InputError, match=exactly(line)):
        read(tmp_path, 1000)


def test_wrong_number_of_class_folders_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path, ["ant", "bee"])
    line = (
        f"cannot label {tmp_path}: it has 2 class folders and the model has 10 classes. "
        "Give one folder for each class, or a CSV path,label."
    )
    with pytest.raises(InputError, match=exactly(line)):
        read(tmp_path, 10)


def test_plain_folder_is_read_recursively_without_labels(tmp_path: Path) -> None:
    save(tmp_path / "b.JPG", 1)
    save(tmp_path / "deep" / "er" / "ä 'quoted' name.png", 2)
    save(tmp_path / ".hidden" / "c.png", 3)
    (tmp_path / "notes.txt").write_text("not an image")
    images = read(tmp_path, labelled=False)
    assert [path.name for path in images.paths] == ["b.JPG", "ä 'quoted' name.png"]
    assert images.labels is None


@pytest.mark.parametrize("header", ["", "path,label\n", "\ufeffpath,label\n", " Path , Label \n"])
def test_csv_with_and_without_header(tmp_path: Path, header: str) -> None:
    save(tmp_path / "a.png", 1)
    save(tmp_path / "with space, comma.png", 2)
    table = tmp_path / "set.csv"
    table.write_text(f'{header}a.png,2\n\n"with space, comma.png",0\n', encoding="utf-8")
    images = read(table)
    assert [path.name for path in images.paths] == ["a.png", "with space, comma.png"]
    assert images.labels == (2, 0)


def test_csv_header_finds_the_columns(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    table = tmp_path / "set.csv"
    table.write_text("label,author,path\n1,someone,a.png\n")
    assert read(table).labels == (1,)


def test_csv_without_labels_serves_as_calibration(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    table = tmp_path / "set.csv"
    table.write_text("path\na.png\n")
    assert read(table, labelled=False).labels is None
    assert read(table, labelled=True).labels is None


def test_csv_label_out_of_range_is_one_line(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    table = tmp_path / "set.csv"
    table.write_text("a.png,0\na.png,3\n")
    line = (
        f"labels of {table} don't fit the model: image 2 has label 3 and the model has classes 0 to 2. "
        "Check that the images belong to this model."
    )
    with pytest.raises(InputError, match=exactly(line)):
        read(table)


@pytest.mark.parametrize("cell", ["cat", "-1", "1.0", ""])
def test_csv_label_that_is_no_class_number_is_one_line(tmp_path: Path, cell: str) -> None:
    save(tmp_path / "a.png")
    table = tmp_path / "set.csv"
    table.write_text(f"a.png,0\na.png,{cell}\n")
    line = f"cannot read {table}: image 2 has the label {cell!r}. Labels are class numbers from 0."
    with pytest.raises(InputError, match=exactly(line)):
        read(table)


def test_csv_that_names_missing_files_is_one_line(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    table = tmp_path / "set.csv"
    table.write_text("a.png,0\ngone.png,1\n")
    line = (
        f"cannot read images from {table}: 1 of 2 files do not exist, the first is {tmp_path / 'gone.png'}. "
        "Paths are relative to the file, or to where you are; a header names the columns path,label."
    )
    with pytest.raises(InputError, match=exactly(line)):
        read(table)


def test_an_image_given_as_csv_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=rf"^cannot read {re.escape(str(path))}: it is not a CSV \("):
        read(path)


def test_no_such_folder_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    line = f"cannot read images from {gone}: no such file or folder. Check the path."
    with pytest.raises(InputError, match=exactly(line)):
        read(gone)


@pytest.mark.parametrize("content", [None, "notes.txt"])
def test_folder_without_images_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / content).write_text("words")
    line = f"no images in {tmp_path}: it holds no file with an image's extension. Give a folder of images or a CSV."
    with pytest.raises(InputError, match=exactly(line)):
        read(tmp_path)


def test_limit_takes_classes_in_turn_and_is_seeded(tmp_path: Path) -> None:
    class_folders(tmp_path, ["ant", "bee", "cat"], images=6)
    images = read(tmp_path, limit=7)
    counts = sorted((images.labels or ()).count(label) for label in range(3))
    assert counts == [2, 2, 3]
    assert read(tmp_path, limit=7) == images
    assert read(tmp_path, limit=7, seed=1).paths != images.paths
    assert list(images.paths) == sorted(images.paths)


def test_limit_above_the_number_of_images_takes_all(tmp_path: Path) -> None:
    class_folders(tmp_path, ["ant", "bee", "cat"])
    assert len(read(tmp_path, limit=99).paths) == 6


def test_file_that_cannot_be_opened_is_skipped_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path, ["ant", "bee", "cat"])
    locked = tmp_path / "bee" / "0.png"

    def refuse(path: Path) -> str:
        if path == locked:
            raise PermissionError(13, "Permission denied")
        return str(path)

    monkeypatch.setattr("edgevit.images.sets.sha256_file", refuse)
    images = read(tmp_path)
    assert images.skipped == ((locked, "permission denied"),)
    assert images.labels == (0, 0, 1, 2, 2)
    assert locked not in images.paths


def test_repeated_content_is_noted(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    progress = Quiet()
    read_image_set(tmp_path, num_classes=3, labelled=False, limit=None, seed=0, progress=progress)
    assert progress.warnings == [f"1 of 2 images in {tmp_path} repeat another one's content"]


def test_overlap_is_found_by_content_whatever_the_name(tmp_path: Path) -> None:
    calibration = save(tmp_path / "calibration" / "one.png", 1)
    save(tmp_path / "calibration" / "two.png", 2)
    validation = save(tmp_path / "validation" / "other.png", 1)
    line = (
        "calibration and validation images overlap: 1 image is in both, "
        f"for example {calibration} and {validation}. "
        "Remove them from one of the two: accuracy measured on calibration images is flattered."
    )
    sets = [read(path.parent, labelled=False) for path in (calibration, validation)]
    with pytest.raises(InputError, match=exactly(line)):
        refuse_overlap(*sets)


def test_sets_without_shared_content_pass(tmp_path: Path) -> None:
    save(tmp_path / "calibration" / "same.png", 1)
    save(tmp_path / "validation" / "same.png", 2)
    refuse_overlap(*[read(tmp_path / role, labelled=False) for role in ("calibration", "validation")])


def test_a_thousand_photographs_are_hashed_in_a_moment(tmp_path: Path) -> None:
    block = bytes(100_000)
    for number in range(1000):
        (tmp_path / f"{number}.jpg").write_bytes(number.to_bytes(4, "big") + block)
    started = time.process_time()
    images = read(tmp_path, labelled=False)
    assert time.process_time() - started < 2.0  # processor time: other work on the machine doesn't count
    assert len(set(images.digests)) == 1000


def test_a_label_column_of_another_name_is_refused_not_ignored(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "v.csv").write_text("path,class\na.png,1\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column label but path, class"):
        read(tmp_path / "v.csv")
    assert read(tmp_path / "v.csv", labelled=False).labels is None


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "a" * 5000 + "/b.png", "nul\0.png"])
def test_a_name_that_no_file_can_have_is_a_missing_image(tmp_path: Path, name: str) -> None:
    (tmp_path / "v.csv").write_text(f"path,label\n{name},1\n", encoding="utf-8")
    with pytest.raises(InputError, match="1 of 1 files do not exist"):
        read(tmp_path / "v.csv")


def test_only_ascii_digits_are_labels(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "v.csv").write_text("path,label\na.png,٢\n", encoding="utf-8")
    with pytest.raises(InputError, match="Labels are class numbers"):
        read(tmp_path / "v.csv")
