"""Decoding pictures within bounds. Needs Pillow, the extra ``images``."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vlrun.errors import DataError, UsageError

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

_SCAN = b"\xff\xda"  # the marker that begins one


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
