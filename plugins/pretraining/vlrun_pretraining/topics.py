"""The topics of a pair: word pieces that say what its text and its image are about. All of it is our choice.

LXMERT-S released the layer that scores topics, not how its targets are made. No parser is needed: what is no stop word
counts as part of a noun phrase.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vlrun import DataError, Vocabulary
from vlrun.blocks.object_tags import read_class_names
from vlrun_pretraining.config import PretrainConfig
from vlrun_pretraining.rule import SeenPair

SURE = 0.3
"""Least confidence of a region whose class name counts."""

_STOP_WORDS = """
a about above across after against all along also am an and another any are around as at away back be because
been before behind being below beneath beside between both but by can could did do does down during each either
for from front had has have he her here hers him his how i if in inside into is it its itself just many may me
more most much my near next no nor not of off on onto or other our out outside over own past per she should so
some such than that the their them then there these they this those through to together toward towards two under
until up upon very was we were what when where which while who whose why will with within without would you your
one three four five six seven eight nine ten
"""
STOP_WORDS = frozenset(_STOP_WORDS.split()) | set(".,;:!?'\"()-/&`#*")
"""Words that are no topics."""


class Topics:
    """Finds the topics of pairs."""

    def __init__(self, config: PretrainConfig) -> None:
        """Reads the names of detector classes, if they count.

        Raises:
            DataError: there is no such file, or a line is empty.
        """
        self.whole = config.topics == "sentence"
        self.names = None if self.whole else read_class_names(config.class_names_path)
        self._stop_ids: tuple[Vocabulary, frozenset[int]] | None = None

    def of(self, seen: SeenPair) -> list[int]:
        """The topics of one pair, different and in order: those of the text and those of the image that are shown."""
        vocabulary = seen.vocabulary
        ids: set[int] = set(seen.token_ids[seen.pieces].tolist())
        if self.whole:
            ids.update(_pieces(seen.items.texts_of(seen.pair.image_id), vocabulary))
        else:
            ids.update(_pieces(self._names_of(seen), vocabulary))
        return sorted(ids - self._stop(vocabulary))

    def _names_of(self, seen: SeenPair) -> list[str]:
        assert self.names is not None
        classes, scores = seen.regions.class_ids, seen.regions.class_scores
        if classes is None or scores is None:
            raise DataError(
                "the region features have no classes with confidences, which topics: phrase needs; import them from a "
                "source that has them"
            )
        sure = np.unique(classes[scores >= SURE]).tolist()
        if sure and sure[-1] >= len(self.names):
            raise DataError(f"image '{seen.pair.image_id}' has class {sure[-1]}, and there are {len(self.names)} names")
        return [self.names[class_id] for class_id in sure]

    def _stop(self, vocabulary: Vocabulary) -> frozenset[int]:
        if self._stop_ids is None or self._stop_ids[0] is not vocabulary:
            pieces = [vocabulary.ids(word) for word in sorted(STOP_WORDS)]
            special = (vocabulary.unknown_id, vocabulary.mask_id)
            self._stop_ids = vocabulary, frozenset([*special, *(ids[0] for ids in pieces if len(ids) == 1)])
        return self._stop_ids[1]


def _pieces(texts: Iterable[str], vocabulary: Vocabulary) -> Iterable[int]:
    return (piece for text in texts for piece in vocabulary.ids(text))
