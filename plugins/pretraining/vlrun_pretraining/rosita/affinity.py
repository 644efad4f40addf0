"""How near objects of a text are to regions of an image, by the vectors of their names; and how regions overlap.

J objects, C classes, R regions, W words, D width of the vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def affinity(objects: Floats, classes: Floats, least: float) -> Floats:
    """Of objects and classes by their vectors of length 1 or 0: (J, D), (C, D) -> (J, C), 0 below ``least``.

    0 also where a vector is zeros; the original has nan for a class, which no comparison passes either
    (``load_data_pretrain.py`` 994-1021 and 1097-1131).
    """
    cosine = objects @ classes.T
    far = np.minimum(1.3 * (1 - cosine), 1)
    lowest = np.exp(-1.1)
    near = 1 - (np.exp(2 * far - 1.1) - lowest) / (np.exp(0.9) - lowest)
    known = objects.any(axis=1)[:, None] & classes.any(axis=1)
    return np.where(known & (near >= least), near, 0).astype(np.float32)


def mean_affinity(affinities: Floats, num_pieces: NDArray[np.int64]) -> Floats:
    """The mean of the positive affinities of each region: (W, R) of different words -> (R,), 0 if there is none.

    Args:
        affinities: of the words that are objects.
        num_pieces: (W,) how many pieces of each word are left; a word of three weighs three times.
    """
    weights = (affinities > 0) * num_pieces[:, None]
    counts = weights.sum(axis=0)
    sums = (affinities * weights).sum(axis=0)
    return np.divide(sums, counts, out=np.zeros(affinities.shape[1]), where=counts > 0).astype(np.float32)


def overlaps(boxes: Floats) -> Floats:
    """Intersection over union of all pairs of boxes in pixels, widths and heights + 1: (R, 4) -> (R, R)."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low + 1, 0, None).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
    return np.asarray(shared / (areas[:, None] + areas[None, :] - shared), np.float32)
