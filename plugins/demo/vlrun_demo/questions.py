"""Questions with answers: counting, existence, attributes, places and choices."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from vlrun_demo.language import COLOUR_WORDS, NOUNS, PATTERN_WORDS, SIZE_WORDS, noun_phrase
from vlrun_demo.meaning import PLACES, Description, referents, unique_subsets, with_attributes
from vlrun_demo.scene import ATTRIBUTES, Scene, Thing, image_random

ANSWER_WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "kind": NOUNS,
    "colour": COLOUR_WORDS,
    "size": SIZE_WORDS,
    "pattern": PATTERN_WORDS,
}
"""What an attribute can be called in an answer: the most usual word first."""


@dataclass(frozen=True)
class Question:
    """A question with its answer and what it is about.

    Attributes:
        text: the question.
        answer: the most usual answer; ``accepted`` holds it and its synonyms.
        answer_type: ``yes/no``, ``number`` or ``other``, as VQA v2 has it.
        question_type: the words it starts with, one of VQA v2's question types.
        asks: ``count``, ``exist``, ``verify``, ``choose`` or ``query``.
        about: the things in question.
        attribute, options: what is verified, chosen or asked of them, and the values that the text offers.
    """

    text: str
    answer: str
    accepted: tuple[str, ...]
    answer_type: str
    question_type: str
    asks: str
    about: Description
    attribute: str | None = None
    options: tuple[str, ...] = ()


def questions(scene: Scene, count: int = 5) -> list[Question]:
    """``count`` distinct questions about ``scene``, always the same ones."""
    rng = image_random(scene.image_id, "questions")
    found: dict[str, Question] = {}
    while len(found) < count:
        make = rng.choice((_counting, _existence, _verifying, _choosing, _querying, _querying, _placing))
        question = make(scene, rng)
        if question is not None:
            found.setdefault(question.text, question)
    return list(found.values())


def _counting(scene: Scene, rng: random.Random) -> Question:
    about = _present(scene, rng) if rng.random() < 0.85 else _absent(scene, rng)
    answer = str(len(referents(scene, about)))
    text = f"how many {noun_phrase(rng, about, plural=True)} are there"
    return Question(_asked(rng, text), answer, (answer,), "number", "how many", "count", about)


def _existence(scene: Scene, rng: random.Random) -> Question:
    about = _present(scene, rng) if rng.random() < 0.5 else _absent(scene, rng)
    if rng.random() < 0.5:
        text, kind = f"is there {noun_phrase(rng, about, article='a')}", "is there a"
    else:
        text, kind = f"are there any {noun_phrase(rng, about, plural=True)}", "are there any"
    if not text.startswith(f"{kind} "):  # 'is there an ...'
        kind = "is there"
    return _yes_or_no(_asked(rng, text), bool(referents(scene, about)), kind, "exist", about)


def _verifying(scene: Scene, rng: random.Random) -> Question | None:
    """'is the striped ball red?'"""
    single = _single(scene, rng, ("colour", "pattern", "size"))
    if single is None:
        return None
    thing, attribute, about = single
    truth: str = getattr(thing, attribute)
    value = truth if rng.random() < 0.5 else rng.choice([v for v in ATTRIBUTES[attribute] if v != truth])
    text = f"is {noun_phrase(rng, about, article='the')} {rng.choice(ANSWER_WORDS[attribute][value])}"
    return _yes_or_no(_asked(rng, text), value == truth, "is the", "verify", about, attribute, (value,))


def _choosing(scene: Scene, rng: random.Random) -> Question | None:
    """'is the ball red or blue?'"""
    single = _single(scene, rng, ("colour", "pattern", "size"))
    if single is None:
        return None
    thing, attribute, about = single
    truth: str = getattr(thing, attribute)
    options = [truth, rng.choice([value for value in ATTRIBUTES[attribute] if value != truth])]
    rng.shuffle(options)
    first, second = (ANSWER_WORDS[attribute][option][0] for option in options)
    text = f"is {noun_phrase(rng, about, article='the')} {first} or {second}"
    accepted = ANSWER_WORDS[attribute][truth]
    return Question(
        _asked(rng, text), accepted[0], accepted, "other", "is the", "choose", about, attribute, tuple(options)
    )


def _querying(scene: Scene, rng: random.Random) -> Question | None:
    """'what color is the small robot?'"""
    single = _single(scene, rng, ("colour", "kind", "pattern"))
    if single is None:
        return None
    thing, attribute, about = single
    phrase = noun_phrase(rng, about, article="the")
    text, kind = {
        "colour": (f"what color is {phrase}", "what color is the"),
        "kind": (f"what is {phrase}", "what is the"),
        "pattern": (f"what is the pattern of {phrase}", "what is the"),
    }[attribute]
    accepted = ANSWER_WORDS[attribute][getattr(thing, attribute)]
    return Question(_asked(rng, text), accepted[0], accepted, "other", kind, "query", about, attribute)


def _placing(scene: Scene, rng: random.Random) -> Question | None:
    """'what is on the left?'"""
    about = Description(place=rng.choice(PLACES))
    found = referents(scene, about)
    if len(found) != 1:
        return None
    accepted = NOUNS[found[0].kind]
    text = f"what is {noun_phrase(rng, about, article='the')}"
    return Question(_asked(rng, text), accepted[0], accepted, "other", "what is the", "query", about, "kind")


def _single(scene: Scene, rng: random.Random, attributes: tuple[str, ...]) -> tuple[Thing, str, Description] | None:
    """A thing, one of its attributes, and a description that singles it out without giving that attribute away."""
    attribute = rng.choice(attributes)
    for thing in rng.sample(scene.things, len(scene.things)):
        silent = [subset for subset in unique_subsets(scene, thing) if attribute not in subset.attributes]
        if silent:
            return thing, attribute, silent[0]
    return None


def _present(scene: Scene, rng: random.Random) -> Description:
    thing = rng.choice(scene.things)
    names = rng.choice((("kind",), ("kind", "colour"), ("colour",), ("kind", "pattern"), ("kind", "size")))
    return with_attributes({name: getattr(thing, name) for name in names})


def _absent(scene: Scene, rng: random.Random) -> Description:
    """A description of nothing in ``scene``, made of what there is as far as possible."""
    while True:
        described = _present(scene, rng).attributes
        name = rng.choice(sorted(described))
        described[name] = rng.choice(ATTRIBUTES[name])
        description = with_attributes(described)
        if not referents(scene, description):
            return description


def _yes_or_no(
    text: str,
    truth: bool,
    question_type: str,
    asks: str,
    about: Description,
    attribute: str | None = None,
    options: tuple[str, ...] = (),
) -> Question:
    answer = "yes" if truth else "no"
    return Question(text, answer, (answer,), "yes/no", question_type, asks, about, attribute, options)


def _asked(rng: random.Random, text: str) -> str:
    ending = (
        rng.choice(("?", "?", "?", " in the picture?"))
        if text.startswith(("how many", "are there", "is there"))
        else "?"
    )
    return f"{text[0].upper()}{text[1:]}{ending}"
