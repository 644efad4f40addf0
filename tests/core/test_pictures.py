"""Decoding pictures within bounds: upright, in RGB, or one line of what is wrong; and drawing boxes."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlrun import Answer, Choice, DataError, Question, UsageError
from vlrun.blocks.pictures import draw_answer, open_picture


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


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    Image.effect_noise((60, 40), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:800])
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (6, 4)).save(tmp_path / "animation.gif")
    for name, message in (
        ("cut.png", "a damaged JPEG or PNG"),
        ("text.png", "neither a JPEG nor a PNG"),
        ("animation.gif", "neither a JPEG nor a PNG"),
        ("none.png", "there is no such file"),
    ):
        with pytest.raises(DataError, match=f"^{name}: {message}") as refused:
            open_picture(tmp_path / name, name)
        assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match="60 x 40 pixels are more than the 2,000 that are read"):
        open_picture(tmp_path / "whole.png", "whole.png", max_pixels=2000)


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
