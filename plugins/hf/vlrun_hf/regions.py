"""What networks of transformers read of regions: words, features, boxes as shares of the image, and object tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vlrun import Encoding, Pair, RegionBatch
from vlrun.blocks.object_tags import ObjectTags
from vlrun.blocks.pair_encoding import LENGTH_STEP, check_feature_size, fit_regions
from vlrun.blocks.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_SHARES = 6


def box_shares(regions: RegionBatch) -> NDArray[np.float32]:
    """Left, top, right, bottom, width and height of each box, as shares of the image: (P, R, 6); 0 at padding."""
    height_width = regions.sizes[:, None]  # (P, 1, 2)
    corners = regions.boxes / np.concatenate([height_width, height_width], axis=-1)[..., [1, 0, 3, 2]]
    shares = np.concatenate([corners, corners[..., 2:] - corners[..., :2]], axis=-1)
    shares[~regions.mask] = 0
    return shares.astype(np.float32, copy=False)


def additive_mask(*masks: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Masks of neighbouring positions, (P, S) each and True for what is real, as attention adds them: (P, 1, 1, S).

    None where all of them are None, for then nothing is masked.
    """
    if all(mask is None for mask in masks):
        return None
    mask = torch.cat([mask for mask in masks if mask is not None], dim=1)
    added = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    return added[:, None, None]


def mask_of(part: Mapping[str, Tensor], name: str, states: Tensor) -> Tensor:
    """The mask of a part, (P, S); all True where it is absent, because nothing is masked."""
    return part[name] if name in part else torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)


@dataclass(frozen=True)
class RegionPairEncoder:
    """Words and regions; of each box the first ``num_shares`` numbers of ``box_shares``."""

    backbone: str
    tokenizer: TextTokenizer
    max_text_tokens: int
    num_regions: int
    region_feature_size: int
    num_shares: int
    tags: ObjectTags | None = None

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        """Turns pairs and their regions into tensors.

        Raises:
            DataError: the region features have another width than the network; or their classes have no names.
        """
        check_feature_size(regions, self.region_feature_size, self.backbone)
        token_ids, text_mask = self.tokenizer.encode_batch(
            [pair.text for pair in pairs], self.max_text_tokens, round_to=LENGTH_STEP
        )
        region_mask = fit_regions(regions.mask, self.num_regions)
        tags = (None, None) if self.tags is None else self.tags.encode(regions)
        tag_ids, tag_mask = (None if each is None else torch.from_numpy(each) for each in tags)
        return Encoding(
            token_ids=torch.from_numpy(token_ids),
            text_mask=torch.from_numpy(text_mask),
            region_features=torch.from_numpy(fit_regions(regions.features, self.num_regions)),
            boxes=torch.from_numpy(fit_regions(box_shares(regions)[..., : self.num_shares], self.num_regions)),
            region_mask=torch.from_numpy(region_mask),
            full_texts=bool(text_mask.all()),
            full_regions=bool(region_mask.all()),
            tag_ids=tag_ids,
            tag_mask=tag_mask,
        )
