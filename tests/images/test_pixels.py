from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgevit import torch_setup  # noqa: F401
from edgevit.errors import InputError
from edgevit.images import ImageSet, read_image_set, write_pixels
from edgevit.images.preprocessing import Preprocessing
from edgevit.progress import Quiet

from timm.data.transforms_factory import transforms_imagenet_eval  # isort: skip

from .pictures import picture, save, truncated

PLAIN = Preprocessing(size=(32, 32), crop_pct=0.875)


def image_set(*paths: Path, labels: tuple[int, ...] | None = None) -> ImageSet:
    digests = tuple(str(number) for number in range(len(paths)))
    return ImageSet(paths[0].parent, paths, labels, digests)


def pixels(path: Path, preprocessing: Preprocessing = PLAIN) -> npt.NDArray[np.uint8]:
    """What one file becomes."""
    out = path.parent / "pixels.npy"
    kept = write_pixels(image_set(path), preprocessing, out, Quiet())
    assert kept.skipped == ()
    written: npt.NDArray[np.uint8] = np.load(out, allow_pickle=False)
    assert written.dtype == np.uint8
    return written[0]


def expected(image: Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """What timm's evaluation transform makes of it."""
    transform = transforms_imagenet_eval(
        img_size=preprocessing.size,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        normalize=False,
    )
    transformed: npt.NDArray[np.uint8] = transform(image).numpy()
    return transformed.transpose(1, 2, 0)


@pytest.mark.parametrize("source", [(40, 30), (30, 41), (200, 35), (32, 32), (9, 50), (10, 7)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (33, 31)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_pixels_equal_timm_to_the_last_bit(
    tmp_path: Path, source: tuple[int, int], size: tuple[int, int], crop_mode: str, crop_pct: float
) -> None:
    image = picture(3, source)
    image.save(tmp_path / "a.png")
    for interpolation in ("bicubic", "bilinear"):
        preprocessing = Preprocessing(size, crop_pct, crop_mode, interpolation)
        np.testing.assert_array_equal(
            pixels(tmp_path / "a.png", preprocessing), expected(image, preprocessing)
        )


def test_model_input_equals_timm_to_float_rounding(tmp_path: Path) -> None:
    image = picture(4, (90, 70))
    image.save(tmp_path / "a.png")
    transform = transforms_imagenet_eval(
        img_size=(32, 32), crop_pct=0.875, interpolation="bicubic", mean=PLAIN.mean, std=PLAIN.std
    )
    found = PLAIN.normalise(pixels(tmp_path / "a.png")[None])[0]
    np.testing.assert_allclose(found, transform(image).numpy(), atol=1e-5)


def test_explicit_resize_overrides_the_crop_share(tmp_path: Path) -> None:
    image = picture(5, (90, 70))
    image.save(tmp_path / "a.png")
    stated = Preprocessing((32, 32), crop_pct=0.5, resize_to=40)
    np.testing.assert_array_equal(
        pixels(tmp_path / "a.png", stated), expected(image, Preprocessing((32, 32), crop_pct=0.8))
    )


def test_bgr_reverses_the_channels_and_grey_has_one(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    rgb = pixels(path)
    bgr = pixels(path, Preprocessing((32, 32), channels="BGR"))
    np.testing.assert_array_equal(bgr, rgb[..., ::-1])
    grey = Preprocessing((32, 32), mean=(0.5,), std=(0.5,), channels="L")
    assert pixels(path, grey).shape == (32, 32, 1)


def test_bgr_border_is_filled_with_the_mean_of_its_own_order(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", size=(10, 80))
    mean = (0.1, 0.5, 0.9)
    corner = pixels(path, Preprocessing((32, 32), 1.0, "border", mean=mean, channels="BGR"))[0, 0]
    assert corner.tolist() == [round(255 * value) for value in mean]


def test_rotation_tag_is_applied(tmp_path: Path) -> None:
    image = picture(6, (48, 32))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    turned.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), expected(image, PLAIN))


def test_damaged_rotation_tag_is_ignored(tmp_path: Path) -> None:
    image = picture(6)
    image.save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12garbage")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), expected(image, PLAIN))


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    found = pixels(tmp_path / "a.png", Preprocessing((32, 32), 1.0))
    np.testing.assert_array_equal(found[..., 0], np.round(ramp / 257))
    np.testing.assert_array_equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("CMYK", "a.jpg"),
        ("L", "a.png"),
        ("LA", "a.png"),
        ("RGBA", "a.png"),
        ("1", "a.png"),
        ("YCbCr", "a.jpg"),
    ],
)
def test_unusual_modes_become_what_pil_makes_of_them(tmp_path: Path, mode: str, name: str) -> None:
    picture(7, mode=mode).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        np.testing.assert_array_equal(pixels(tmp_path / name), expected(image.convert("RGB"), PLAIN))


def test_palette_with_transparency_works_without_a_warning(tmp_path: Path) -> None:
    image = picture(8).quantize(16)
    image.save(tmp_path / "a.png", transparency=bytes(range(0, 256, 16)))
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), expected(image.convert("RGB"), PLAIN))


def test_truncated_jpeg_is_named_and_skipped(tmp_path: Path) -> None:
    good = [save(tmp_path / f"{number}.jpg", number) for number in range(3)]
    broken = truncated(tmp_path / "broken.jpg")
    images = image_set(good[0], broken, *good[1:], labels=(5, 6, 7, 8))
    kept = write_pixels(images, PLAIN, tmp_path / "pixels.npy", Quiet())
    written = np.load(tmp_path / "pixels.npy")
    assert kept.paths == tuple(good)
    assert kept.labels == (5, 7, 8)
    assert kept.digests == ("0", "2", "3")
    assert [path for path, _ in kept.skipped] == [broken]
    assert "truncated" in kept.skipped[0][1]
    assert written.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(written[1], expected(Image.open(good[1]), PLAIN))


def test_more_than_two_percent_unreadable_stops_the_run(tmp_path: Path) -> None:
    good = [save(tmp_path / f"{number}.png", number) for number in range(6)]
    bad = [tmp_path / "x.png", tmp_path / "y.png"]
    for path in bad:
        path.write_text("words")
    line = (
        f"cannot read images from {tmp_path}: 2 of 8 files are unreadable, the first is {bad[0]} (not an image). "
        "Remove or replace them."
    )
    with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
        write_pixels(image_set(*good, *bad), PLAIN, tmp_path / "pixels.npy", Quiet())
    assert not list(tmp_path.glob("*.npy"))
    assert not list(tmp_path.glob(".pixels*"))


def test_two_percent_unreadable_of_many_is_allowed(tmp_path: Path) -> None:
    good, bad = save(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"")
    kept = write_pixels(image_set(*[good] * 98, bad, bad), PLAIN, tmp_path / "pixels.npy", Quiet())
    assert len(kept.paths) == 98
    with pytest.raises(InputError, match="^cannot read images from .*: 3 of 100 files are unreadable"):
        write_pixels(image_set(*[good] * 97, *[bad] * 3), PLAIN, tmp_path / "pixels.npy", Quiet())


def test_a_single_unreadable_file_leaves_nothing_to_do(tmp_path: Path) -> None:
    bad = tmp_path / "a.png"
    bad.write_text("words")
    with pytest.raises(InputError, match="1 of 1 files are unreadable"):
        write_pixels(image_set(bad), PLAIN, tmp_path / "pixels.npy", Quiet())


def test_decompression_bomb_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = save(tmp_path / "a.png")
    bomb = save(tmp_path / "bomb.png", size=(100, 70))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # a warning of PIL's, not yet its error
    kept = write_pixels(image_set(good, bomb), PLAIN, tmp_path / "pixels.npy", Quiet())
    assert kept.skipped == ((bomb, "100x70 pixels: may be a decompression bomb"),)


def test_floating_point_image_is_skipped_with_the_reason(tmp_path: Path) -> None:
    good, floating = save(tmp_path / "a.png"), tmp_path / "b.tif"
    Image.fromarray(np.zeros((20, 20), np.float32)).save(floating)
    kept = write_pixels(image_set(good, floating), PLAIN, tmp_path / "pixels.npy", Quiet())
    assert kept.skipped == ((floating, "floating-point pixels have no fixed range"),)


def test_order_is_kept_whatever_thread_finishes_first(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / f"{number}.png", number, (300, 300) if number % 2 else (33, 33))
        for number in range(8)
    ]
    kept = write_pixels(image_set(*paths), PLAIN, tmp_path / "pixels.npy", Quiet())
    written = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    for index, path in enumerate(kept.paths):
        np.testing.assert_array_equal(written[index], expected(Image.open(path), PLAIN))


@pytest.mark.yardstick
@pytest.mark.slow
def test_reference_photographs_reach_the_known_float_accuracy(reference_data: Path, tmp_path: Path) -> None:
    from edgevit.conversion.reference import outputs_of
    from edgevit.models import load_model

    images = read_image_set(
        reference_data / "imagenet-dev" / "validation.csv",
        num_classes=1000,
        labelled=True,
        limit=None,
        seed=0,
        progress=Quiet(),
    )
    preprocessing = Preprocessing((224, 224), crop_pct=0.9)  # shorter side floor(224 / 0.9) = 248
    kept = write_pixels(images, preprocessing, tmp_path / "pixels.npy", Quiet())
    weights = reference_data / "deit-tiny" / "deit_tiny_patch16_224.safetensors"
    module = load_model("deit_tiny_patch16_224", weights).module
    outputs = outputs_of(module, np.load(tmp_path / "pixels.npy", mmap_mode="r"), preprocessing, Quiet())
    right = outputs.argmax(1) == np.asarray(kept.labels)
    assert len(right) == 744
    assert round(100 * right.mean(), 2) == 87.37
