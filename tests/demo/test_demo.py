"""The bundled model: really accurate, small, and its image sets never overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgevit import demo
from edgevit.files import sha256_file
from edgevit.images import ImageSet, read_image_set, refuse_overlap, write_pixels
from edgevit.models.canonical import why_not_canonical
from edgevit.progress import Quiet


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo.write_demo_images(folder)
    return folder


def read(images: Path, role: str) -> ImageSet:
    return read_image_set(images / role, num_classes=10, labelled=True, limit=None, seed=0, progress=Quiet())


def test_bundled_model_is_right_on_98_percent_of_unseen_digits(images: Path, tmp_path: Path) -> None:
    loaded = demo.load_demo()
    kept = write_pixels(read(images, "validation"), loaded.preprocessing, tmp_path / "pixels.npy", Quiet())
    inputs = torch.from_numpy(loaded.preprocessing.normalise(np.load(tmp_path / "pixels.npy")))
    with torch.inference_mode():
        right = loaded.module(inputs).argmax(1).numpy() == np.asarray(kept.labels)
    assert len(right) >= 360
    assert right.mean() >= 0.98


def test_bundled_model_is_canonical_and_under_three_megabytes() -> None:
    assert why_not_canonical(demo.load_demo().module) is None
    assert demo.WEIGHTS.stat().st_size < 3_000_000


def test_every_class_is_in_both_sets(images: Path) -> None:
    for role, number in (("calibration", 128), ("validation", 400)):
        found = read(images, role)
        assert len(found.paths) == number
        assert set(found.labels or ()) == set(range(10))


def test_sets_share_no_image(images: Path) -> None:
    calibration, validation = read(images, "calibration"), read(images, "validation")
    refuse_overlap(calibration, validation)
    assert len(set(calibration.digests + validation.digests)) == 528


def test_no_scan_is_in_two_parts_of_the_split() -> None:
    train = pytest.importorskip("edgevit.demo.train")
    pytest.importorskip("sklearn")
    digits = train.split()
    roles = {role: {scan.tobytes() for scan in digits[f"{role}_scans"]} for role in
             ("training", "calibration", "validation")}  # fmt: skip
    assert sum(map(len, roles.values())) == len(set.union(*roles.values()))


def test_shipped_scans_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    scans, labels = datasets.load_digits(return_X_y=True)
    with np.load(demo.DIGITS, allow_pickle=False) as shipped:
        for role in ("calibration", "validation"):
            indices = shipped[f"{role}_indices"]
            np.testing.assert_array_equal(shipped[f"{role}_scans"].reshape(-1, 64), scans[indices])
            np.testing.assert_array_equal(shipped[f"{role}_labels"], labels[indices])


def test_images_are_written_the_same_every_time(images: Path, tmp_path: Path) -> None:
    demo.write_demo_images(tmp_path)
    first = {path.relative_to(images): sha256_file(path) for path in images.rglob("*.png")}
    second = {path.relative_to(tmp_path): sha256_file(path) for path in tmp_path.rglob("*.png")}
    assert first == second
