"""Reading photographs for the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlrun.blocks.pictures import OWN_FORMATS, open_picture

MOST_PIXELS = 89_478_485
"""From here on Pillow itself warns; the network looks at 1,333 x 1,333 at most."""


def read_image(path: Path) -> Tensor:
    """(H, W, 3) uint8 R, G, B; raises DataError without the name of the file, as ``open_picture`` does."""
    return torch.from_numpy(np.array(open_picture(path, max_pixels=MOST_PIXELS, formats=OWN_FORMATS)))
