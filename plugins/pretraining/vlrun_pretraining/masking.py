"""Which words and regions are masked, and what is shown in their place. One generator per pair decides all of it.

LXMERT's shares (Tan and Bansal 2019): of what is masked, 80 % is blanked, 10 % replaced at random, 10 % kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlrun import Vocabulary

BLANKED, REPLACED = 0.8, 0.1
NO_LABEL = -1


def mask_words(
    token_ids: NDArray[np.int64], wordpiece: Vocabulary, probability: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Masks the word pieces of one text; special tokens, padding among them, are never masked.

    Args:
        token_ids: (L,). Padding at the end changes nothing in what is drawn.

    Returns:
        What is shown, (L,), and what has to be guessed, (L,), ``NO_LABEL`` where nothing has. A random entry is any of
        the vocabulary, special tokens too, as in LXMERT.
    """
    special = (wordpiece.pad_id, wordpiece.unknown_id, wordpiece.cls_id, wordpiece.sep_id, wordpiece.mask_id)
    places = np.flatnonzero(~np.isin(token_ids, special))
    places = places[rng.random(len(places)) < probability]
    fate = rng.random(len(places))
    random_ids = rng.integers(wordpiece.size, size=len(places))
    shown, labels = token_ids.copy(), np.full_like(token_ids, NO_LABEL)
    labels[places] = token_ids[places]
    replaced = np.where(fate < BLANKED + REPLACED, random_ids, token_ids[places])
    shown[places] = np.where(fate < BLANKED, wordpiece.mask_id, replaced)
    return shown, labels


def mask_regions(
    is_region: NDArray[np.bool_], probability: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Masks regions of one image.

    Args:
        is_region: (R,), True for a real region, False for padding.

    Returns:
        The K masked regions, and for each the region whose features it shows: ``NO_LABEL`` for none (zeros), itself, or
        another one *of the same image*. LXMERT takes one of any image; then what a pair looks like would depend on
        which others are in its batch, and so on the number of processes.
    """
    regions = np.flatnonzero(is_region)
    chosen = np.flatnonzero(rng.random(len(regions)) < probability)
    fate = rng.random(len(chosen))
    steps = rng.integers(1, max(2, len(regions)), size=len(chosen))  # to another one, or in a circle of one to itself
    others = (chosen + steps) % max(1, len(regions))
    sources = np.where(fate < BLANKED + REPLACED, regions[others], regions[chosen])
    return regions[chosen], np.where(fate < BLANKED, NO_LABEL, sources)
