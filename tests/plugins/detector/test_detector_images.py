"""Pictures for the network: the pixels of the file, and which ones are too small or too narrow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from vlrun import DataError
from vlrun_detector.caffe import CaffeProfile
from vlrun_detector.hf import HfProfile
from vlrun_detector.images import MOST_PIXELS, read_image


def test_pixels_are_rows_of_red_green_blue(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 2), (10, 20, 30))
    image.putpixel((2, 0), (1, 2, 3))
    image.save(tmp_path / "a.png", "BMP")
    found = read_image(tmp_path / "a.png")
    assert (tuple(found.shape), found.dtype) == ((2, 3, 3), torch.uint8)
    assert (found[0, 2].tolist(), found[1, 2].tolist()) == ([1, 2, 3], [10, 20, 30])
    assert Image.MAX_IMAGE_PIXELS == MOST_PIXELS


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
