"""The WordPiece vocabulary of the demo world, learned from a sample of all kinds of its texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlrun.wordpiece import train_wordpiece
from vlrun_demo.captions import captions
from vlrun_demo.expressions import MANNERS
from vlrun_demo.language import all_words, cleaned
from vlrun_demo.official import referents_of
from vlrun_demo.questions import questions
from vlrun_demo.world import COCO, images

SIZE = 400  # an upper limit: enough for every word of this world to be one token
_SAMPLED_IMAGES = 60
_WEIGHT_OF_A_WORD = 3  # each word counts this often beside the texts, so that rare ones get a token too


def write_vocabulary(path: Path) -> None:
    train_wordpiece(_texts(), SIZE, path)


def _texts() -> Iterator[str]:
    for word in all_words():
        yield from [word] * _WEIGHT_OF_A_WORD
    sample = images(COCO)[:_SAMPLED_IMAGES]
    for manner in MANNERS:
        for referent in referents_of(manner, sample):
            yield from (expression.sent for expression in referent.expressions)
    for image in sample:
        scene = image.scene()
        yield from (caption.text for caption in captions(scene))
        yield from (cleaned(question.text) for question in questions(scene))
