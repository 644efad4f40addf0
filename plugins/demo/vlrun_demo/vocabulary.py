"""The WordPiece vocabulary of the demo world, learned from a sample of all kinds of its texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlrun.blocks.wordpiece import train_wordpiece
from vlrun_demo.expressions import MANNERS
from vlrun_demo.language import all_words, cleaned
from vlrun_demo.official_captions import sentences
from vlrun_demo.official_gqa import asked_about as asked_in_gqa
from vlrun_demo.official_refcoco import referents_of
from vlrun_demo.official_vqa import asked_about as asked_in_vqa
from vlrun_demo.pairs import pair_sets
from vlrun_demo.world import COCO, GQA, PRETRAINING, VQA, images

SIZE = 500  # an upper limit: enough for every word of this world to be one token
_SAMPLED_IMAGES = 60
_WEIGHT_OF_A_WORD = 3  # each word counts this often beside the texts, so that rare ones get a token too


def write_vocabulary(path: Path) -> None:
    """Learns the vocabulary and writes it, one word piece a line."""
    train_wordpiece(_texts(), SIZE, path)


def _texts() -> Iterator[str]:
    for word in all_words():
        yield from [word] * _WEIGHT_OF_A_WORD
    sample = images(COCO)[:_SAMPLED_IMAGES]
    for manner in MANNERS:
        for referent in referents_of(manner, sample):
            yield from (expression.sent for expression in referent.expressions)
    for image in images(PRETRAINING)[:_SAMPLED_IMAGES]:
        yield from sentences(image, image.scene())
    yield from (cleaned(asked.text) for asked in asked_in_vqa(images(VQA)[:_SAMPLED_IMAGES]))
    for image in images(GQA)[:_SAMPLED_IMAGES]:
        yield from (cleaned(asked.wording.text) for asked in asked_in_gqa(image))
    for pair_set in pair_sets()[:_SAMPLED_IMAGES]:
        yield from (cleaned(statement.text) for statement in pair_set.statements)
