"""Pictures that people give: decoded within bounds, and drawn on. Needs Pillow, the extra ``images``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun.errors import DataError, UsageError
from vlrun.features.decoding import MAX_PIXELS, MAX_SCANS, OWN_FORMATS, SENT_FORMATS, open_picture
from vlrun.interfaces.examples import PICTURE_SUFFIXES
from vlrun.interfaces.question import Answer, Box, RegionAttention

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL_SIDE = 240
"""Longest side of a thumbnail in pixels; as a JPEG, 10 KB."""

MARKS = {"right": "#0072b2", "predicted": "#d55e00"}
"""What is written on a box of a thumbnail, and its colour."""

_SHADE, _MOST_COVER = "#ffe119", 160  # of the region that gets the most attention, of 255
_EVEN = 1e-6  # no share is above an even one by more: rounding
_COLOURS = ("#e6194b", "#4363d8", "#3cb44b")  # the best choice, the runner-up, the others


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


__all__ = [
    "MARKS",
    "MAX_PIXELS",
    "MAX_SCANS",
    "OWN_FORMATS",
    "SENT_FORMATS",
    "THUMBNAIL_SIDE",
    "MarkedBox",
    "draw_answer",
    "open_picture",
    "pictures_in",
    "thumbnail",
]
