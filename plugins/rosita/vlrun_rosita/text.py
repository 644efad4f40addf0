"""From pairs and region features to what the network reads: cleaning, word pieces, box features, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlrun import Pair, RegionBatch
from vlrun.blocks.pair_encoding import LENGTH_STEP, check_feature_size, fit_regions
from vlrun.blocks.wordpiece import without_punctuation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vlrun import Encoding
    from vlrun.blocks.wordpiece import WordPiece


def clean(text: str) -> str:
    """Deletes underscores and whatever is neither a word character nor a space, and puts nothing in their place.

    ``don't`` becomes ``dont`` and ``bus-stop`` becomes ``busstop``: the released weights were trained on such text.
    """
    return without_punctuation(text)


def box_features(
    boxes: NDArray[np.float32], sizes: NDArray[np.float32], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """``(x1/W, y1/H, x2/W, y2/H, area share)`` of each box; zeros where there is no region.

    Args:
        boxes: (P, R, 4) xyxy in pixels.
        sizes: (P, 2) height and width of the images in pixels.
        mask: (P, R), True for a real region.

    Returns:
        (P, R, 5) float32. The original adds no pixel to widths here, other than in its box overlap.
    """
    height, width = sizes[:, 0, None], sizes[:, 1, None]  # (P, 1)
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)  # (P, R) each
    area = (x2 - x1) * (y2 - y1) / (width * height)
    features = np.stack([x1 / width, y1 / height, x2 / width, y2 / height, area], axis=-1)
    features[~mask] = 0.0
    return features.astype(np.float32, copy=False)


@dataclass(frozen=True)
class RositaPairEncoder:
    """Text and box pipeline of ROSITA.

    Deviations: texts are padded to the longest of the batch, not to ``max_text_tokens`` (padding changes no output,
    1.2 x faster), and a text whose words fall apart (Chinese characters, say) is encoded, where the original stops.
    """

    wordpiece: WordPiece
    max_text_tokens: int
    num_regions: int
    region_feature_size: int

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        """Turns pairs and their regions into tensors.

        Raises:
            DataError: the region features have another width than the network.
        """
        import torch

        from vlrun import Encoding

        check_feature_size(regions, self.region_feature_size, "rosita")
        token_ids, text_mask = self.wordpiece.encode_batch(
            [clean(pair.text) for pair in pairs], self.max_text_tokens, round_to=LENGTH_STEP
        )
        boxes = box_features(regions.boxes, regions.sizes, regions.mask)
        region_mask = fit_regions(regions.mask, self.num_regions)
        return Encoding(
            token_ids=torch.from_numpy(token_ids),
            text_mask=torch.from_numpy(text_mask),
            region_features=torch.from_numpy(fit_regions(regions.features, self.num_regions)),
            boxes=torch.from_numpy(fit_regions(boxes, self.num_regions)),
            region_mask=torch.from_numpy(region_mask),
            full_texts=bool(text_mask.all()),
            full_regions=bool(region_mask.all()),
        )
