"""The numbers of ROSITA's masking, as ``rosita/config/cfg_pretrain.py`` has them, and of ``load_data_pretrain.py``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """How likely what is, and where borders lie.

    Attributes:
        text_side: how likely words are hidden and not regions.
        piece, region: of each word piece and each region to be hidden by chance.
        object_word: of each object of the graph; 0.3 of the configuration plus 0.2 of the code.
        attribute_scale, relation_scale: by what the frequency of a phrase is multiplied.
        most_by_prior, least_by_prior: the product is cut to the first; then the second is added.
        spread: how likely a hidden region takes those along that overlap it by more than ``spread_overlap``.
        least_affinity: what is below counts as none.
        affinity_ratio: factor of the mean affinity of a region.
    """

    text_side: float = 0.5
    piece: float = 0.15
    region: float = 0.15
    object_word: float = 0.5
    attribute_scale: float = 5.0
    relation_scale: float = 20.0
    most_by_prior: float = 0.5
    least_by_prior: float = 0.2
    spread: float = 0.3
    spread_overlap: float = 0.2
    least_affinity: float = 0.5
    affinity_ratio: float = 0.9
