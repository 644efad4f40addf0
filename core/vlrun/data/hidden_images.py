"""Images as a model without eyes sees them: what a text alone tells is a figure to compare with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vlrun.interfaces.examples import RegionBatch


def shown_regions(regions: RegionBatch, hides_images: bool) -> RegionBatch:
    """The regions as the model may see them: blank where images are hidden."""
    return _blank(regions) if hides_images else regions


def _blank(regions: RegionBatch) -> RegionBatch:
    """As many regions, each without content and as large as the image."""
    height, width = regions.sizes[:, None, 0], regions.sizes[:, None, 1]
    whole = np.stack(np.broadcast_arrays(0 * width, 0 * height, width, height), axis=-1)  # (P, 1, 4)
    return replace(
        regions,
        features=np.zeros_like(regions.features),
        boxes=np.where(regions.mask[..., None], whole, 0).astype(np.float32),
        class_ids=None,
        attribute_ids=None,
        class_scores=None,
        attribute_scores=None,
        pixels=None if regions.pixels is None else np.zeros_like(regions.pixels),
        hidden=True,
    )
