"""Questions in words, as people type them, and what they are answered."""

from __future__ import annotations

import random
from collections.abc import Iterator

from vlrun import DemoImage
from vlrun_demo.language.questions import Question, questions
from vlrun_demo.language.words import ANSWER_WORDS, NUMBERS, plain_phrase, usual_word, with_article
from vlrun_demo.scene import image_random

_SHARES = {
    "query colour": 30,
    "query kind": 25,
    "choose": 13,
    "side": 7,
    "exist": 12,
    "verify": 8,
    "count": 14,  # most are not asked
}
_QUESTIONS_PER_IMAGE = 5


def questions_in_words(image: DemoImage) -> Iterator[tuple[Question, str]]:
    """Asks up to five questions about an image, always the same ones, in words."""
    rng = image_random(image.number, "vqa words")
    for question in questions(image, _SHARES, _QUESTIONS_PER_IMAGE):
        yield question, _in_words(question, rng)


def answer_words(question: Question, right: str) -> tuple[str, ...]:
    """What the right answer can be called, the most usual word first."""
    if question.asks == "count":
        return right, NUMBERS[int(right)]
    if question.asks == "side":
        return right, f"{right} side"
    if question.asks in ("query", "choose"):
        assert question.attribute is not None
        return ANSWER_WORDS[question.attribute][right]
    return (right,)


def _in_words(question: Question, rng: random.Random) -> str:
    thing = plain_phrase(question.about)
    if question.asks in ("count", "exist"):
        return _in_words_about_many(question, thing, rng)
    if question.asks == "side":
        return f"What side is the {thing} on?"
    if question.asks == "query":
        return f"What color is the {thing}?" if question.attribute == "colour" else f"What is the {thing}?"
    assert question.attribute is not None
    named = " or ".join(usual_word(question.attribute, option) for option in question.options)
    return f"Is the {thing} {named}?"


def _in_words_about_many(question: Question, thing: str, rng: random.Random) -> str:
    things = plain_phrase(question.about, plural=True)
    if question.asks == "count":
        return f"How many {things} are there?"
    if rng.random() < 0.5:
        return f"Are there any {things}?"
    return f"Is there {with_article('a', thing)}?"
