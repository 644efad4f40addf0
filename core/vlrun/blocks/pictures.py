"""Pictures that people give: decoded within bounds, and drawn on. Needs Pillow, the extra ``images``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vlrun.errors import DataError, UsageError
from vlrun.interfaces.question import Answer, Box

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000
"""More than any camera of the common kind takes; decoded, 150 MB."""

_FORMATS = ("JPEG", "PNG")
_COLOURS = ("#e6194b", "#4363d8", "#3cb44b")  # the best choice, the runner-up, the others


def open_picture(file: Path | IO[bytes], name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """Decodes a JPEG or PNG, upright and in RGB.

    Args:
        name: what messages call it.

    Raises:
        UsageError: Pillow is not installed.
        DataError: it is no such picture, damaged, cut off, or has more than ``max_pixels``, which is seen before it is
            decoded.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise UsageError("pictures need Pillow: pip install 'vlrun[images]'") from error
    try:
        with Image.open(file, formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise DataError(f"{name}: {width:,} x {height:,} pixels are more than the {max_pixels:,} that are read")
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):  # 16 bits, of which convert would cut what exceeds 255
                upright = upright.convert("I").point(lambda value: value / 256).convert("L")
            return upright.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{name}: there is no such file") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: it has more than the {max_pixels:,} pixels that are read") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: neither a JPEG nor a PNG") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises for damaged files
        raise DataError(f"{name}: a damaged JPEG or PNG ({error})") from error


def draw_answer(answer: Answer, picture: Path, out: Path, top: int = 2) -> None:
    """Draws the boxes of the best choices on the picture of a question, and writes it to ``out``.

    Raises:
        DataError: the picture cannot be read, or is not as large as the one that the boxes are in.
        UsageError: the choices are no places in an image, or ``out`` cannot be written.
    """
    boxes = [choice for choice in answer.choices if choice.box is not None][:top]
    if not boxes:
        raise UsageError(f"there is no box to draw: the answer is '{answer.best.text}', not a place in the image")
    image = open_picture(picture, str(picture))
    if image.size != answer.image_sizes[0]:
        raise DataError(
            f"{picture}: it is {image.width} x {image.height} pixels, the region features are of a picture of "
            f"{answer.image_sizes[0][0]} x {answer.image_sizes[0][1]}; is it another picture, or scaled?"
        )
    for rank, choice in reversed(list(enumerate(boxes))):  # the best one on top
        label = choice.text if choice.probability is None else f"{choice.text}  {choice.probability:.0%}"
        _draw_box(image, choice.box or (0, 0, 0, 0), label, _COLOURS[min(rank, len(_COLOURS) - 1)])
    try:
        image.save(out)
    except (OSError, ValueError) as error:
        raise UsageError(f"{out}: cannot write the picture: {error}") from error


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
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
