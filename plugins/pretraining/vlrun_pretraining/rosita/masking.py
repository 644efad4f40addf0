"""ROSITA's masking of one pair: which words or regions are hidden, by knowledge of the text's scene graph."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlrun import DataError
from vlrun.blocks.object_tags import read_class_names
from vlrun_pretraining.config import PretrainConfig
from vlrun_pretraining.dataset import GraphedCaption
from vlrun_pretraining.draws import Draws
from vlrun_pretraining.rosita.affinity import Floats, affinity, mean_affinity, overlaps
from vlrun_pretraining.rosita.graph import word_chances
from vlrun_pretraining.rosita.rates import Rates
from vlrun_pretraining.rosita.selection import select_pieces, select_regions
from vlrun_pretraining.rosita.word_vectors import WordVectors
from vlrun_pretraining.rule import Hidden, MaskingRule, SeenPair, shown_regions, shown_words

_NOTHING = np.zeros(0, np.int64)


class KnowledgeMasking(MaskingRule):
    """Hides words or regions of a pair, never both (``load_data_pretrain.py`` 189-193).

    Words by chance, with the objects of the text, and with what is often said of those. Regions by chance, and by how
    near what the detector calls them is to objects of the text; some of them with those that overlap them.
    """

    reads_classes: ClassVar[bool] = True
    all_regions: ClassVar[bool] = False

    def __init__(self, config: PretrainConfig) -> None:
        """Reads the names of the detector's classes and the word vectors.

        Raises:
            DataError: one of them is missing or damaged.
        """
        options = config.masking.model_dump()
        others = ("text_side", "object_word", "spread", "spread_overlap", "least_affinity", "affinity_ratio")
        own = {name: options[name] for name in others}
        self.rates = Rates(piece=options["words"], region=options["regions"], **own)
        self.vectors = WordVectors.read(config.word_vectors_path)
        self._names = read_class_names(config.class_names_path)

    @cached_property
    def _classes(self) -> Floats:
        """(C, D), made in the process that needs it."""
        return self.vectors.of(self._names)

    def hide(self, seen: SeenPair, draws: Draws) -> Hidden:
        """Purposes: ``side``; those of ``_hidden_words`` or ``_hidden_regions``."""
        if draws.uniform("side", 1)[0] < self.rates.text_side:
            places = self._hidden_words(seen, draws)
            fate = draws.uniform("word fate", len(places))
            return Hidden(places, shown_words(places, seen.token_ids, seen.vocabulary, draws, fate), [], [])
        places = self._hidden_regions(seen, draws)
        return Hidden(_NOTHING, _NOTHING, places.tolist(), shown_regions(places, seen, draws))

    def _hidden_words(self, seen: SeenPair, draws: Draws) -> NDArray[np.int64]:
        """Places of word pieces. Purposes: ``words``, ``objects``, ``said words``."""
        caption, (pieces, word_of_piece) = _caption(seen), words_of_pieces(seen)
        is_hidden = select_pieces(
            word_of_piece,
            caption.graph.object_words,
            word_chances(caption.graph, caption.lemmas, self.rates),
            self.rates,
            of_pieces=draws.uniform("words", len(pieces)),
            of_objects=draws.uniform("objects", len(caption.graph.objects)),
            of_words=draws.uniform("said words", len(caption.lemmas)),
        )
        return pieces[is_hidden]

    def _hidden_regions(self, seen: SeenPair, draws: Draws) -> NDArray[np.int64]:
        """Numbers of regions. Purposes: ``regions``, ``near regions``, ``regions spread``, ``near regions spread``."""
        count = len(seen.regions.boxes)
        is_hidden = select_regions(
            self._mean_affinities(seen),
            overlaps(seen.regions.boxes),
            self.rates,
            by_chance=draws.uniform("regions", count),
            by_affinity=draws.uniform("near regions", count),
            spread_by_chance=draws.uniform("regions spread", count),
            spread_by_affinity=draws.uniform("near regions spread", count),
        )
        return np.flatnonzero(is_hidden)

    def _mean_affinities(self, seen: SeenPair) -> Floats:
        """(R,) how near each region is to those objects of the text that are left after cutting."""
        classes = seen.regions.class_ids
        if classes is None:
            raise DataError(
                "the region features have no classes, which masking: knowledge compares with the objects of a text; "
                "import them from a source that has them, such as ROSITA's files"
            )
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self._names):
            raise DataError(
                f"image '{seen.pair.image_id}' has class {classes.max()}, and there are {len(self._names)} names of "
                "classes, from 0 on"
            )
        caption, (_, word_of_piece) = _caption(seen), words_of_pieces(seen)
        num_pieces = np.bincount(word_of_piece, minlength=len(caption.lemmas))
        words = np.unique(caption.graph.object_words)
        words = words[num_pieces[words] > 0]
        found = self.vectors.of(caption.lemmas[word] for word in words.tolist())
        return mean_affinity(affinity(found, self._classes[classes], self.rates.least_affinity), num_pieces[words])


def words_of_pieces(seen: SeenPair) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places (P,) of the word pieces, and the number of the word that each belongs to.

    Raises:
        DataError: the backbone reads other words than the graph speaks of.
    """
    text, places = seen.pair.text, seen.pieces
    words = text.split()
    if text.isascii():
        word_of_piece = np.cumsum(seen.vocabulary.word_starts[seen.token_ids[places]]) - 1
    else:  # characters that are words of their own, such as Chinese ones
        counts = [len(seen.vocabulary.ids(word)) for word in words]
        word_of_piece = np.repeat(np.arange(len(words)), counts)[: len(places)]
    if len(word_of_piece) < len(places) or (word_of_piece >= len(words)).any():
        raise DataError(
            f"example '{seen.example.id}': the backbone finds other words in '{text}' than the {len(words)} between "
            "its spaces, of which the scene graph speaks"
        )
    return places, word_of_piece


def _caption(seen: SeenPair) -> GraphedCaption:
    target = seen.example.target
    if not isinstance(target, GraphedCaption):
        raise DataError(
            f"example '{seen.example.id}' has no scene graph, which masking: knowledge needs; use a dataset that has "
            "them, such as rosita-pretraining"
        )
    return target
