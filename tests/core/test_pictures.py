"""Decoding pictures within bounds: upright, in RGB, or one line of what is wrong; and drawing boxes."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlrun import Answer, Choice, DataError, Question, UsageError
from vlrun.blocks.pictures import OWN_FORMATS, draw_answer, open_picture

# four corners that differ: red, green / blue, white
CORNERS = np.zeros((40, 60, 3), np.uint8)
CORNERS[:20, :30] = (255, 0, 0)
CORNERS[:20, 30:] = (0, 255, 0)
CORNERS[20:, :30] = (0, 0, 255)
CORNERS[20:, 30:] = (255, 255, 255)


def read(path: Path) -> np.ndarray:
    return np.asarray(open_picture(path, formats=OWN_FORMATS))


def picture() -> Image.Image:
    return Image.fromarray(CORNERS)


def save(path: Path, image: Image.Image, kind: str, **options: Any) -> Path:
    image.save(path, kind, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_kind_of_picture_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    Image.new(mode, (6, 4)).save(path)
    picture = open_picture(path, "it")
    assert (picture.mode, picture.size) == ("RGB", (6, 4))


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    read = np.asarray(open_picture(tmp_path / "deep.png", "deep.png"))
    assert (read[..., 0] == ramp >> 8).all()


def test_it_is_turned_as_the_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the right side is up
    Image.new("RGB", (6, 4)).save(tmp_path / "photo.jpg", exif=exif)
    assert open_picture(tmp_path / "photo.jpg", "it").size == (4, 6)


def test_what_cannot_be_read_is_said_in_one_line_with_its_name(tmp_path: Path) -> None:
    Image.effect_noise((60, 40), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:800])
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (6, 4)).save(tmp_path / "animation.gif")
    for name, message in (
        ("cut.png", "damaged: "),
        ("text.png", r"no picture that can be read \(JPEG, PNG\)$"),
        ("animation.gif", "no picture that can be read"),
        ("none.png", "there is no such file"),
    ):
        with pytest.raises(DataError, match=f"^{name}: {message}") as refused:
            open_picture(tmp_path / name, name)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("content", "message"), [(b"", "empty file"), (b"GIF89a", "no picture that can be read")])
def test_a_picture_may_be_a_stream(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"^sent: {message}"):
        open_picture(io.BytesIO(content), "sent")
    stream = io.BytesIO()
    picture().save(stream, "PNG")
    assert np.array_equal(np.asarray(open_picture(stream, "sent")), CORNERS)


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "JPEG", progressive=True)
    whole = stream.getvalue()
    last = whole.rindex(b"\xff\xda")
    open_picture(io.BytesIO(whole), "it")
    bomb = whole[:-2] + 300 * whole[last:-2] + whole[-2:]
    with pytest.raises(DataError, match="it: a JPEG of more than 200 scans"):
        open_picture(io.BytesIO(bomb), "it")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the same
def test_damaged_notes_of_a_camera_are_one_line() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8769] = 6, "a text", {0x9003: "2020:01:01"}
    stream = io.BytesIO()
    Image.new("RGB", (6, 4)).save(stream, "JPEG", exif=exif)
    whole = stream.getvalue()
    start, read, refused = whole.index(b"Exif"), 0, []
    for place in range(start, start + 90):
        for value in range(0, 256, 17):
            damaged = bytearray(whole)
            damaged[place] = value
            try:
                open_picture(io.BytesIO(damaged), "it")
                read += 1
            except DataError as error:
                refused.append(str(error))
    assert read > 0
    assert all("\n" not in line for line in refused)


def test_without_pillow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match=r"pip install 'vlrun\[images\]'"):
        open_picture(tmp_path / "a.png", "a.png")


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
    found = read(save(tmp_path / "a.png", picture(), "PNG", exif=exif))
    assert np.array_equal(found, turned)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "BMP"), ("RGB", "WEBP")],
)
def test_colours_are_those_of_the_file_whatever_its_name(mode: str, kind: str, tmp_path: Path) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    found = read(save(tmp_path / "a.jpg", picture().convert(mode), kind, **options))
    assert np.array_equal(found, CORNERS)


def test_transparency_is_ignored_as_opencv_does(tmp_path: Path) -> None:
    image = picture().convert("RGBA")
    image.putalpha(0)
    assert np.array_equal(read(save(tmp_path / "a.png", image, "PNG")), CORNERS)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_colour(mode: str, tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((20, 30), 255, np.uint8)).convert(mode)
    found = read(save(tmp_path / "a.png", grey, "PNG"))
    assert found.shape == (20, 30, 3)
    assert (found == 255).all()


def test_sixteen_bits_keep_their_upper_byte(tmp_path: Path) -> None:
    deep = np.array([[0x0000, 0x00FF], [0x8040, 0xFFFF]], np.uint16)
    found = read(save(tmp_path / "a.png", Image.fromarray(deep), "PNG"))
    assert found[..., 0].tolist() == [[0x00, 0x00], [0x80, 0xFF]]
    assert np.array_equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg(mode: str, progressive: bool, tmp_path: Path) -> None:
    given = picture().convert(mode)
    path = save(tmp_path / "a.jpg", given, "JPEG", quality=100, subsampling=0, progressive=progressive)
    found = read(path).astype(int)
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
        read(path)
    (line,) = caught.value.problems
    assert "\n" not in line
    assert str(tmp_path) not in line


def test_a_picture_may_have_so_many_pixels_and_no_more(tmp_path: Path) -> None:
    assert open_picture(save(tmp_path / "a.png", picture(), "PNG"), max_pixels=60 * 40).size == (60, 40)
    with pytest.raises(DataError, match=r"^61 x 40 pixels are more than the 2,400 that are read"):
        open_picture(save(tmp_path / "b.png", Image.new("RGB", (61, 40)), "PNG"), max_pixels=60 * 40)


def test_of_the_pictures_of_a_phone_the_first_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", picture(), "MPO", save_all=True, append_images=[noisy()], quality=100)
    found = read(path).astype(int)
    assert np.abs(found - CORNERS).mean() < 10


def test_boxes_are_drawn_on_the_right_picture_only(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50), "white").save(tmp_path / "picture.png")
    question = Question(("the hat",), ("image",))
    box = Choice("region 1", None, (5.0, 5.0, 95.0, 45.0))
    draw_answer(Answer(question, (box,), ((100, 50),)), tmp_path / "picture.png", tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as drawn:
        assert drawn.size == (100, 50)
        red, green, _ = drawn.getpixel((95, 30))  # type: ignore[misc]
        assert red - green > 100
    with pytest.raises(DataError, match="it is 100 x 50 pixels, the region features are of a picture of 200 x 100"):
        draw_answer(Answer(question, (box,), ((200, 100),)), tmp_path / "picture.png", tmp_path / "out.png")
    with pytest.raises(UsageError, match="the answer is 'red', not a place"):
        draw_answer(Answer(question, (Choice("red"),), ((100, 50),)), tmp_path / "picture.png", tmp_path / "out.png")
    with pytest.raises(UsageError, match="cannot write the picture"):
        draw_answer(Answer(question, (box,), ((100, 50),)), tmp_path / "picture.png", tmp_path / "none" / "out.png")
