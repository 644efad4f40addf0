"""Checks and padding that the pair encoders of several backbones share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlrun.errors import ConfigError, DataError
from vlrun.interfaces.examples import RegionBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTH_STEP = 4
"""Text lengths are rounded up to a multiple of this, so that few different shapes occur."""


def check_text_length(max_text_tokens: int, max_positions: int, backbone: str) -> None:
    """Checks ``max_text_tokens`` against the position table of the network.

    Raises:
        ConfigError: it leaves no room for a word, or is larger than the number of rows of the table.
    """
    if not 3 <= max_text_tokens <= max_positions:
        raise ConfigError(
            f"max_text_tokens is {max_text_tokens}, backbone '{backbone}' takes 3 ([CLS], a word piece, [SEP]) to "
            f"{max_positions} (rows of its position table)"
        )


def check_feature_size(regions: RegionBatch, expected: int, backbone: str) -> None:
    """Checks the width of region features.

    Raises:
        DataError: the features are not ``expected`` wide, as the network is.
    """
    width = regions.features.shape[-1]
    if width != expected:
        raise DataError(
            f"region features of image '{regions.image_ids[0]}' are {width} wide, backbone '{backbone}' expects "
            f"{expected}; backbone.region_feature_size sets that"
        )


def fit_regions(values: NDArray[Any], num_regions: int) -> NDArray[Any]:
    """Cuts ``values`` (P, R, ...) to (P, num_regions, ...) or pads them with zeros; copies only to pad.

    Zeros that take no memory, which stand for features that are read later, stay such zeros.
    """
    import numpy as np

    missing = num_regions - values.shape[1]
    if missing <= 0:
        return values[:, :num_regions]
    if values.ndim > 2 and not any(values.strides):
        shape = (values.shape[0], num_regions, *values.shape[2:])
        return np.lib.stride_tricks.as_strided(values, shape, values.strides)
    padding = np.zeros((values.shape[0], missing, *values.shape[2:]), dtype=values.dtype)
    return np.concatenate([values, padding], axis=1)
