"""The options that an experiment file may set (no torch here)."""

from __future__ import annotations

from typing import Literal, get_args

from vlrun import AnsweringConfig, DatasetConfig

Label = Literal["contradiction", "entailment", "neutral"]
LABELS = get_args(Label)
SIZES = {"train": 529_527, "dev": 17_858, "test": 17_901}
"""Published numbers of statements."""


class EntailmentConfig(AnsweringConfig):
    """One of three labels for a statement about an image."""

    loss: Literal["cross-entropy"] = "cross-entropy"
    transfer_head: bool = False  # no head of other answers has rows for these labels


class SnliVeConfig(DatasetConfig):
    """The statements of SNLI-VE; images are called by the numbers of Flickr."""

    image_collection = "flickr"
    known_splits = tuple(SIZES)
