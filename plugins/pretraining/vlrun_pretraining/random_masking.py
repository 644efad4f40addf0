"""Masking at random, as LXMERT does (Tan and Bansal 2019), and by spans of words, as LXMERT-S may."""

from __future__ import annotations

from math import floor, log1p

import numpy as np
from numpy.typing import NDArray

from vlrun_pretraining.config import MaskingOptions
from vlrun_pretraining.draws import Draws
from vlrun_pretraining.rule import Hidden, MaskingRule, SeenPair, Shown, shown_regions, shown_words


class RandomMasking(MaskingRule):
    """Each word piece and each region by chance (lxmert_pretrain.py, ``random_word`` and ``random_feat``)."""

    def __init__(self, options: MaskingOptions) -> None:
        assert options.words is not None
        assert options.regions is not None
        self.words, self.regions = options.words, options.regions
        self.shuffled_images = options.shuffled_images or 0.0

    def hide(self, seen: SeenPair, draws: Draws) -> Hidden:
        """Purposes: ``words``, ``word fate``, ``word``; those of ``_hidden_regions``."""
        places, fate = self._words(seen, draws)
        shown = shown_words(places, seen.token_ids, seen.vocabulary, draws, fate)
        return Hidden(places, shown, *self._hidden_regions(seen, draws))

    def _words(self, seen: SeenPair, draws: Draws) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Places (K,) of the pieces to guess, and a number for each that decides what is shown."""
        pieces = seen.pieces
        places = pieces[draws.uniform("words", len(pieces)) < self.words]
        return places, draws.uniform("word fate", len(places))

    def _hidden_regions(self, seen: SeenPair, draws: Draws) -> tuple[list[int], list[Shown]]:
        """Purposes: ``regions`` and those of ``shown_regions``; ``shuffle``, ``shuffled``, ``order``."""
        count = len(seen.regions.boxes)
        is_masked = draws.uniform("regions", count) < self.regions
        places = np.flatnonzero(is_masked)
        shown = shown_regions(places, seen, draws)
        if not self.shuffled_images or draws.uniform("shuffle", 1)[0] >= self.shuffled_images:
            return places.tolist(), shown
        moved = np.flatnonzero((draws.uniform("shuffled", count) < self.regions) & ~is_masked)
        order = np.argsort(draws.uniform("order", len(moved)))
        shuffled = [Shown(seen.pair.image_id, region) for region in moved[order].tolist()]
        return [*places.tolist(), *moved.tolist()], [*shown, *shuffled]


class SpanMasking(RandomMasking):
    """Runs of whole words, each blanked, replaced or kept as one; regions by chance.

    Our choice: of LXMERT-S only the numbers are known (``src/param.py``: longest 10, geometric with p 0.2, ratio 0.15),
    which look like those of SpanBERT.
    """

    def __init__(self, options: MaskingOptions) -> None:
        super().__init__(options)
        assert options.longest is not None
        assert options.geometric is not None
        self.longest, self.geometric = options.longest, options.geometric

    def _words(self, seen: SeenPair, draws: Draws) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Purposes: ``share``, which rounds the number of words up or down; ``length``, ``start``, ``word fate``."""
        pieces = seen.pieces
        word_of = np.cumsum(seen.vocabulary.word_starts[seen.token_ids[pieces]])
        word_of -= word_of[:1].sum()  # a text that begins within a word has it as its first one
        count = int(word_of[-1]) + 1 if len(word_of) else 0
        wanted = floor(count * self.words + draws.uniform("share", 1)[0])
        span_of = np.full(count, -1)
        span = covered = 0
        while covered < wanted:
            length = 1 + floor(log1p(-draws.uniform("length", 1)[0]) / log1p(-self.geometric))
            length = min(length, self.longest, wanted - covered)
            start = int(draws.below("start", count, 1)[0])
            free = np.flatnonzero(span_of[start : start + length] < 0) + start
            span_of[free] = span
            covered, span = covered + len(free), span + 1
        of_piece = span_of[word_of]
        fate = draws.uniform("word fate", span)
        return pieces[of_piece >= 0], fate[of_piece[of_piece >= 0]]
