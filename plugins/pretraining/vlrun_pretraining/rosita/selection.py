"""Which words or regions of a pair have to be guessed, from numbers that were drawn.

P pieces, W words, J objects, R regions. Every number is addressed by what it decides about, so that one that is not
needed shifts no other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlrun_pretraining.rosita.affinity import Floats
from vlrun_pretraining.rosita.rates import Rates

Bools = NDArray[np.bool_]
Drawn = NDArray[np.float64]
"""Numbers in [0, 1)."""


def select_pieces(
    word_of_piece: NDArray[np.int64],
    object_words: NDArray[np.int64],
    chances: Floats,
    rates: Rates,
    *,
    of_pieces: Drawn,
    of_objects: Drawn,
    of_words: Drawn,
) -> Bools:
    """(P,) by chance; all pieces of objects that are drawn; and of words that their priors then draw.

    Objects and words beyond the cut are drawn like others, and hide what is left of those they belong to
    (``load_data_pretrain.py`` 518-592).

    Args:
        word_of_piece: (P,).
        object_words: (J,).
        chances: (J, W), see ``word_chances``.
        of_pieces, of_objects, of_words: (P,), (J,), (W,) drawn numbers.
    """
    drawn = of_objects < rates.object_word
    hit = of_words < chances[drawn].max(axis=0, initial=0)
    hit[object_words[drawn]] = True
    return (of_pieces < rates.piece) | hit[word_of_piece]


def select_regions(
    affinities: Floats,
    overlap: Floats,
    rates: Rates,
    *,
    by_chance: Drawn,
    by_affinity: Drawn,
    spread_by_chance: Drawn,
    spread_by_affinity: Drawn,
) -> Bools:
    """(R,) by chance or affinity; each time with some probability those along that overlap the region.

    Both are tried of every region, hidden or not, and what is taken along takes none along (``load_data_pretrain.py``
    713-754).

    Args:
        affinities: (R,), the mean of each.
        overlap: (R, R).
        by_chance, by_affinity, spread_by_chance, spread_by_affinity: (R,) drawn numbers.
    """
    chosen = by_chance < rates.region
    near = by_affinity < rates.affinity_ratio * affinities
    takes = (chosen & (spread_by_chance < rates.spread)) | (near & (spread_by_affinity < rates.spread))
    beside = overlap > rates.spread_overlap
    np.fill_diagonal(beside, False)
    return chosen | near | beside[takes].any(axis=0)
