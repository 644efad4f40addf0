"""What a masking rule is: it decides for one pair which words and regions have to be guessed, and what is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlrun import Example, Pair, RegionFeatures, Vocabulary
from vlrun_pretraining.draws import Draws
from vlrun_pretraining.items import Items

BLANKED, REPLACED = 0.8, 0.1
"""Shares of all three papers: of what has to be guessed, 80 % is blanked, 10 % replaced at random, 10 % kept."""


@dataclass(frozen=True)
class ShownPair(Pair):
    """A pair that knows whether its text and its image belong together."""

    matched: bool = True


@dataclass(frozen=True)
class SeenPair:
    """One pair before anything is hidden. L tokens, R regions.

    Attributes:
        example: whose text or image it is; of a mismatched pair, the other part is another item's.
        pair: the text and the image that are shown.
        token_ids: (L,) as the backbone gets them, special tokens and padding included.
        regions: all regions of the image that is shown, with the detector's classes where the rule reads them and the
            store has them.
        vocabulary: of the token ids.
        items: those of the split that the example belongs to.
    """

    example: Example[Any]
    pair: ShownPair
    token_ids: NDArray[np.int64]
    regions: RegionFeatures
    vocabulary: Vocabulary
    items: Items

    @property
    def pieces(self) -> NDArray[np.int64]:
        """Places of the word pieces, which are all tokens but [CLS], [SEP] and padding."""
        words = self.vocabulary
        return np.flatnonzero(~np.isin(self.token_ids, (words.pad_id, words.cls_id, words.sep_id)))


class Shown(NamedTuple):
    """What is shown in place of a region's features.

    Attributes:
        image_id: the image whose region is shown, which may be the pair's own; None: zeros.
        region: its number, modulo the number of regions of that image.
    """

    image_id: str | None
    region: int = 0


@dataclass(frozen=True)
class Hidden:
    """What has to be guessed of one pair, K word pieces and M regions, and what is shown there.

    Attributes:
        word_places: (K,) places in ``SeenPair.token_ids``.
        shown_ids: (K,) what is shown there.
        region_places: M numbers of regions. Those that the backbone cuts off are left out later.
        shown_regions: what is shown of each.
    """

    word_places: NDArray[np.int64]
    shown_ids: NDArray[np.int64]
    region_places: list[int]
    shown_regions: list[Shown]


class MaskingRule(ABC):
    """A way to mask. Picklable; runs in loader workers.

    Attributes:
        reads_classes: whether it needs the detector's classes.
        all_regions: whether detector classes are guessed of all regions, hidden or not, as in LXMERT. Then losses of
            regions are divided by ``rule.LOSS_SHARE`` of the number of all regions, else by how many count.
    """

    reads_classes: ClassVar[bool] = False
    all_regions: ClassVar[bool] = True

    @abstractmethod
    def hide(self, seen: SeenPair, draws: Draws) -> Hidden:
        """Decides about one pair; draws nothing but what ``draws`` gives, each purpose by its own name."""


LOSS_SHARE = 0.15
"""Of LXMERT's mean over all regions, which is multiplied by 1 / 0.15 (``visual_loss_config`` in lxrt/modeling.py)."""


def shown_words(
    places: NDArray[np.int64], token_ids: NDArray[np.int64], vocabulary: Vocabulary, draws: Draws, fate: NDArray[Any]
) -> NDArray[np.int64]:
    """What is shown in place of word pieces: [MASK], any entry of the vocabulary (purpose ``word``), or themselves.

    Args:
        places: (K,).
        fate: (K,) numbers in [0, 1) that decide.
    """
    random_ids = draws.below("word", vocabulary.size, len(places))
    kept = np.where(fate < BLANKED + REPLACED, random_ids, token_ids[places])
    return np.where(fate < BLANKED, vocabulary.mask_id, kept)


def shown_regions(places: NDArray[np.int64], seen: SeenPair, draws: Draws) -> list[Shown]:
    """What is shown in place of regions: zeros, a region of a random item of the split, or themselves.

    Purposes: ``region fate``, ``region item``, ``region``.
    """
    shown = []
    for place, fate in zip(places.tolist(), draws.uniform("region fate", len(places)), strict=True):
        if fate < BLANKED:
            shown.append(Shown(None))
        elif fate < BLANKED + REPLACED:
            other = seen.items.image(draws, "region item")
            shown.append(Shown(other, int(draws.below("region", 1 << 31, 1)[0])))
        else:
            shown.append(Shown(seen.pair.image_id, place))
    return shown
