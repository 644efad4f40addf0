"""Every kind of picture that people have: the right pixels, or one line that says what is wrong."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlrun import DataError
from vlrun_detector import images
from vlrun_detector.caffe import CaffeProfile
from vlrun_detector.hf import HfProfile
from vlrun_detector.images import read_image

# four corners that differ: red, green / blue, white
CORNERS = np.zeros((40, 60, 3), np.uint8)
CORNERS[:20, :30] = (255, 0, 0)
CORNERS[:20, 30:] = (0, 255, 0)
CORNERS[20:, :30] = (0, 0, 255)
CORNERS[20:, 30:] = (255, 255, 255)


def picture() -> Image.Image:
    return Image.fromarray(CORNERS)


def save(path: Path, image: Image.Image, kind: str, **options) -> Path:
    image.save(path, kind, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_camera_says(orientation: int, tmp_path: Path) -> None:
    turned = {  # what a viewer shows, as a function of the stored pixels
        1: CORNERS,
        2: CORNERS[:, ::-1],
        3: CORNERS[::-1, ::-1],
        4: CORNERS[::-1],
        5: CORNERS.swapaxes(0, 1),
        6: np.rot90(CORNERS, -1),
        7: CORNERS[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(CORNERS),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_image(save(tmp_path / "a.png", picture(), "PNG", exif=exif))
    assert np.array_equal(found.numpy(), turned)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "BMP"), ("RGB", "WEBP")],
)
def test_colours_are_those_of_the_file_whatever_its_name(mode: str, kind: str, tmp_path: Path) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    found = read_image(save(tmp_path / "a.jpg", picture().convert(mode), kind, **options))
    assert np.array_equal(found.numpy(), CORNERS)


def test_transparency_is_ignored_as_opencv_does(tmp_path: Path) -> None:
    image = picture().convert("RGBA")
    image.putalpha(0)
    assert np.array_equal(read_image(save(tmp_path / "a.png", image, "PNG")).numpy(), CORNERS)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_colour(mode: str, tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((20, 30), 255, np.uint8)).convert(mode)
    found = read_image(save(tmp_path / "a.png", grey, "PNG"))
    assert found.shape == (20, 30, 3)
    assert (found == 255).all()


def test_sixteen_bits_keep_their_upper_byte(tmp_path: Path) -> None:
    deep = np.array([[0x0000, 0x00FF], [0x8040, 0xFFFF]], np.uint16)
    found = read_image(save(tmp_path / "a.png", Image.fromarray(deep), "PNG"))
    assert found[..., 0].tolist() == [[0x00, 0x00], [0x80, 0xFF]]
    assert torch.equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg(mode: str, progressive: bool, tmp_path: Path) -> None:
    given = picture().convert(mode)
    path = save(tmp_path / "a.jpg", given, "JPEG", quality=100, subsampling=0, progressive=progressive)
    found = read_image(path).numpy().astype(int)
    assert np.abs(found - np.array(given.convert("RGB")).astype(int)).mean() < 2


def truncated(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def huge_png(path: Path, width: int, height: int) -> Path:
    """A header that promises many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def noisy() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8))


def broken_checksum(path: Path) -> Path:
    content = bytearray(save(path, noisy(), "PNG").read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated JPEG": (lambda path: truncated(save(path, noisy(), "JPEG"), 0.5), "damaged: .*truncated"),
    "truncated PNG": (lambda path: truncated(save(path, noisy(), "PNG"), 0.5), "damaged: "),
    "only a header": (lambda path: truncated(save(path, noisy(), "JPEG"), 0.001), "damaged: "),
    "broken PNG": (broken_checksum, "damaged: "),
    "empty": (lambda path: (path.write_bytes(b"") and path) or path, "empty file"),
    "text": (lambda path: path.write_text("<html>404</html>") and path, "no picture that can be read"),
    "too many pixels": (lambda path: huge_png(path, 10_000, 10_000), "10000 x 10000 pixels are more than"),
    "a bomb": (lambda path: huge_png(path, 60_000, 60_000), "far too many pixels"),
    "a format that is not read": (lambda path: save(path, picture(), "TIFF"), "no picture that can be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gives_one_line(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    path = make(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    (line,) = caught.value.problems
    assert "\n" not in line
    assert str(tmp_path) not in line


def test_the_largest_pictures_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MOST_PIXELS", 60 * 40)
    assert read_image(save(tmp_path / "a.png", picture(), "PNG")).shape == (40, 60, 3)
    with pytest.raises(DataError, match="61 x 40 pixels are more than the 2,400"):
        read_image(save(tmp_path / "b.png", Image.new("RGB", (61, 40)), "PNG"))


@pytest.mark.parametrize(
    ("height", "width", "caffe_fits", "hf_fits"),
    [
        (1, 1, False, True),
        (15, 400, False, True),
        (16, 16, True, True),
        (20, 3000, False, False),
        (900, 16, True, True),
    ],
)
def test_tiny_and_narrow_pictures(height: int, width: int, caffe_fits: bool, hf_fits: bool) -> None:
    pixels = torch.zeros(height, width, 3, dtype=torch.uint8)
    for profile, fits in ((CaffeProfile(), caffe_fits), (HfProfile(), hf_fits)):
        if fits:
            made = profile.prepare(pixels)
            assert min(made.height, made.width) >= 16
        else:
            with pytest.raises(DataError, match=f"{width} x {height} pixels are too"):
                profile.prepare(pixels)


def test_of_the_pictures_of_a_phone_the_first_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", picture(), "MPO", save_all=True, append_images=[noisy()], quality=100)
    found = read_image(path).numpy().astype(int)
    assert np.abs(found - CORNERS).mean() < 10
