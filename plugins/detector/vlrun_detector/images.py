"""Reading photographs: the pixels that a viewer shows, or one line that says why there are none."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vlrun import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
"""What a file may be, whatever its name says; NLVR2 calls all of its pictures .png."""

_MOST_PIXELS = 89_478_485
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")


def read_image(path: Path) -> Tensor:
    """(H, W, 3) uint8 R, G, B, turned as EXIF says; grey becomes colour, and transparency is ignored, as OpenCV does.

    Raises:
        DataError: it is no picture, is damaged, or has too many pixels; one line, without the name of the file.
    """
    try:
        with warnings.catch_warnings():
            # what Pillow warns of is either refused here, below, or does not change the pixels
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise DataError(
                        f"{image.width} x {image.height} pixels are more than the {_MOST_PIXELS:,} that are read; "
                        "make it smaller: the detector looks at 1,333 pixels at most"
                    )
                turned = ImageOps.exif_transpose(image)
                return torch.from_numpy(_colours(turned))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError("empty file" if path.stat().st_size == 0 else "no picture that can be read") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"far too many pixels: at most {_MOST_PIXELS:,} are read") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"damaged: {_one_line(error)}") from error


def _colours(image: Image.Image) -> np.ndarray:
    if image.mode in _DEEP or image.mode == "I":
        # 16 bits: Pillow would cut what exceeds 255, OpenCV keeps the upper byte
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _one_line(error: BaseException) -> str:
    text = str(error).strip().split("\n", 1)[0]
    return text or type(error).__name__
