"""Pictures that people give: decoded within bounds, and drawn on. Needs Pillow, the extra ``images``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vlrun.errors import DataError, UsageError
from vlrun.interfaces.examples import PICTURE_SUFFIXES
from vlrun.interfaces.question import Answer, Box, RegionAttention

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000
"""More than any camera of the common kind takes; decoded, 150 MB."""

MAX_SCANS = 200
"""Of a progressive JPEG; cameras and editors make about ten. Each costs time, and a small file can hold millions."""

SENT_FORMATS = ("JPEG", "PNG")
"""What a picture that somebody sends may be, whatever its name says."""

OWN_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
"""What a file of one's own may be, whatever its name says; NLVR2 calls all of its pictures .png."""

THUMBNAIL_SIDE = 240
"""Longest side of a thumbnail in pixels; as a JPEG, 10 KB."""

MARKS = {"right": "#0072b2", "predicted": "#d55e00"}
"""What is written on a box of a thumbnail, and its colour."""

_SCAN = b"\xff\xda"  # the marker that begins one
_SHADE, _MOST_COVER = "#ffe119", 160  # of the region that gets the most attention, of 255
_EVEN = 1e-6  # no share is above an even one by more: rounding
_COLOURS = ("#e6194b", "#4363d8", "#3cb44b")  # the best choice, the runner-up, the others


def open_picture(
    file: Path | IO[bytes], name: str = "", max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = SENT_FORMATS
) -> Image:
    """Decodes a picture, upright as EXIF says and in RGB; grey becomes colour, and transparency is ignored.

    Args:
        name: what messages call it; without it they are about "it".
        max_pixels: of more, which is seen before it is decoded, it is refused.
        formats: what the content may be, by Pillow's names; of several frames the first is taken.

    Raises:
        UsageError: Pillow is not installed.
        DataError: it is no such picture, damaged, cut off, or too large; one line.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise UsageError("pictures need Pillow: pip install 'vlrun[images]'") from error
    before = f"{name}: " if name else ""
    try:
        with warnings.catch_warnings():
            # what Pillow warns of is either refused here, below, or does not change the pixels
            warnings.simplefilter("ignore")
            with Image.open(file, formats=formats) as picture:
                width, height = picture.size
                if width * height > max_pixels:
                    raise DataError(f"{before}{width} x {height} pixels are more than the {max_pixels:,} that are read")
                if picture.format == "JPEG" and _content(file).count(_SCAN) > MAX_SCANS:
                    raise DataError(f"{before}a JPEG of more than {MAX_SCANS} scans, which would take minutes to read")
                return _in_colour(ImageOps.exif_transpose(picture))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{before}there is no such file") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{before}far too many pixels: at most {max_pixels:,} are read") from error
    except UnidentifiedImageError as error:
        reason = "empty file" if _is_empty(file) else f"no picture that can be read ({', '.join(formats)})"
        raise DataError(f"{before}{reason}") from error
    except Exception as error:  # a damaged file makes Pillow raise anything, struct.error and TypeError among it
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise DataError(f"{before}damaged: {reason}") from error


def _in_colour(picture: Image) -> Image:
    """In RGB; of 16 bits the upper byte, as OpenCV keeps it, where Pillow would cut what exceeds 255."""
    if not picture.mode.startswith("I"):
        return picture.convert("RGB")
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")


def _is_empty(file: Path | IO[bytes]) -> bool:
    return file.stat().st_size == 0 if isinstance(file, Path) else file.seek(0, os.SEEK_END) == 0


def _content(file: Path | IO[bytes]) -> bytes:
    """All bytes; a stream stays where it is."""
    if isinstance(file, Path):
        return file.read_bytes()
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    return content


def draw_answer(answer: Answer, picture: Path, out: Path, top: int = 2) -> None:
    """Draws the boxes of the best choices and the attention to regions on a picture, and writes it to ``out``.

    The picture is that of the first attention of the answer, or without one of the first image of its question.

    Raises:
        DataError: the picture cannot be read, or is not as large as the one that the boxes are in.
        UsageError: the choices are no places in an image and no attention is known, or ``out`` cannot be written.
    """
    boxes = [choice for choice in answer.choices if choice.box is not None][:top]
    attention = next(iter(answer.attention), None)
    if not boxes and attention is None:
        raise UsageError(f"there is no box to draw: the answer is '{answer.best.text}', not a place in the image")
    image = open_picture(picture, str(picture))
    size = answer.image_sizes[answer.question.image_ids.index(attention.image_id) if attention else 0]
    if image.size != size:
        raise DataError(
            f"{picture}: it is {image.width} x {image.height} pixels, the region features are of a picture of "
            f"{size[0]} x {size[1]}; is it another picture, or scaled?"
        )
    if attention is not None:
        image = _shaded(image, attention)
    for rank, choice in reversed(list(enumerate(boxes))):  # the best one on top
        label = choice.text if choice.probability is None else f"{choice.text}  {choice.probability:.0%}"
        _draw_box(image, choice.box or (0, 0, 0, 0), label, _COLOURS[min(rank, len(_COLOURS) - 1)])
    try:
        image.save(out)
    except (OSError, ValueError) as error:
        raise UsageError(f"{out}: cannot write the picture: {error}") from error


def _shaded(image: Image, attention: RegionAttention) -> Image:
    """The picture with its regions in yellow, by how much their share of the attention is above an even one."""
    import numpy as np
    from PIL import Image as Images

    above = np.maximum(np.array(attention.shares) - 1 / len(attention.shares), 0)
    cover = np.zeros((image.height, image.width))  # where regions overlap, the largest counts
    for (left, top, right, bottom), share in zip(attention.boxes, above / max(above.max(), _EVEN), strict=True):
        place = cover[max(0, int(top)) : max(0, int(bottom) + 1), max(0, int(left)) : max(0, int(right) + 1)]
        np.maximum(place, share, out=place)
    mask = Images.fromarray((_MOST_COVER * cover).astype(np.uint8))
    return Images.composite(Images.new("RGB", image.size, _SHADE), image, mask)


@dataclass(frozen=True)
class MarkedBox:
    """A box to draw on a thumbnail; ``mark`` is one of ``MARKS``."""

    box: Box
    mark: str


def thumbnail(picture: Path, boxes: Sequence[MarkedBox] = (), size: tuple[int, int] | None = None) -> bytes:
    """A small JPEG of a picture, with boxes drawn on it.

    Args:
        size: (width, height) of the image that the boxes are in; None: that of the picture.

    Raises:
        UsageError, DataError: as ``open_picture``.
    """
    image = open_picture(picture, str(picture))
    width, height = size or image.size
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    across, down = image.width / width, image.height / height
    for each in boxes:
        x1, y1, x2, y2 = each.box
        left, right = sorted((x1 * across, x2 * across))
        top, bottom = sorted((y1 * down, y2 * down))
        _draw_box(image, (left, top, right, bottom), each.mark, MARKS[each.mark])
    content = BytesIO()
    image.save(content, "JPEG", quality=80)
    return content.getvalue()


def _draw_box(image: Image, box: Box, label: str, colour: str) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    width = max(2, max(image.size) // 250)
    draw.rectangle(box, outline=colour, width=width)
    place = (box[0] + width + 1, box[1] + width)
    draw.rectangle(draw.textbbox(place, label), fill=colour)
    draw.text(place, label, fill="white")


def pictures_in(folder: Path) -> Sequence[Path]:
    """The JPEG and PNG files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
