"""Referring expressions in the three manners of the RefCOCO family.

``refcoco``: short, often with a place. ``refcoco+``: appearance only. ``refcocog``: whole phrases, with more detail
than is needed and relations to other things.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vlrun import DemoImage, DemoObject
from vlrun_demo.language import (
    PLACES,
    Description,
    attribute_subsets,
    cleaned,
    is_only,
    noun_phrase,
    placed,
    referents,
    related,
    true_relations,
    unique_subsets,
)

MANNERS = ("refcoco", "refcoco+", "refcocog")

_SHARE_WITH_PLACE = 0.65  # of RefCOCO's expressions, where a place is clear
_SHARE_THAT_NEEDS_THE_RELATION = 0.15  # of RefCOCOg's, where one singles the thing out
_SHARE_WITH_RELATION = 0.5  # of RefCOCOg's others
_MOST_WORDS = 16  # fits the 20 tokens of the papers

_Draw = Callable[[random.Random], Description | None]


@dataclass(frozen=True)
class Expression:
    """A referring expression: as typed, as cleaned by the dataset's makers, and what it says."""

    raw: str
    sent: str
    meaning: Description


def refer(image: DemoImage, thing: DemoObject, manner: str, rng: random.Random, most: int) -> list[Expression]:
    """Makes up to ``most`` distinct expressions that single ``thing`` out; none where the manner cannot do so."""
    draw = {"refcoco": _short, "refcoco+": _by_appearance, "refcocog": _at_length}[manner](image, thing, rng)
    by_text: dict[str, Expression] = {}
    for _ in range(3 * most):
        meaning = draw(rng)
        if meaning is None:
            break
        text = noun_phrase(rng, meaning, article=_article(meaning, manner, rng))
        if len(text.split()) <= _MOST_WORDS and text not in by_text:
            by_text[text] = Expression(_as_typed(rng, text), cleaned(text), meaning)
        if len(by_text) == most:
            break
    return list(by_text.values())


def _by_appearance(image: DemoImage, thing: DemoObject, _: random.Random) -> _Draw:
    unique = unique_subsets(image, thing)
    return lambda rng: _preferred(unique, rng)


def _short(image: DemoImage, thing: DemoObject, _: random.Random) -> _Draw:
    unique = unique_subsets(image, thing)
    with_place = [
        replace(subset, place=place)
        for subset in attribute_subsets(thing, most=2)
        for fitting in [referents(image, subset)]
        for place in PLACES
        if is_only(placed(image, fitting, place), thing)
    ]

    def draw(rng: random.Random) -> Description | None:
        says_place = with_place and (rng.random() < _SHARE_WITH_PLACE or not unique)
        return _preferred(with_place if says_place else unique, rng)

    return draw


def _at_length(image: DemoImage, thing: DemoObject, rng: random.Random) -> _Draw:
    unique = unique_subsets(image, thing)
    detailed = [subset for subset in unique if subset.num_conditions >= 2]
    relations = list(true_relations(image, thing, rng.sample(image.objects, 3)))
    needing = [
        replace(subset, relation=relation)
        for subset in attribute_subsets(thing, most=2)
        if subset.kind and subset not in unique
        for fitting in [referents(image, subset)]
        for relation in relations
        if is_only(related(image, fitting, relation), thing)
    ]

    def draw(rng: random.Random) -> Description | None:
        if needing and rng.random() < _SHARE_THAT_NEEDS_THE_RELATION:
            return _preferred(needing, rng)
        meaning = rng.choice(detailed) if detailed else None
        if meaning and relations and rng.random() < _SHARE_WITH_RELATION:
            return replace(meaning, relation=rng.choice(relations))
        return meaning

    return draw


def _preferred(meanings: Sequence[Description], rng: random.Random) -> Description | None:
    """One of ``meanings``; people keep it short and say what kind of thing it is."""
    if not meanings:
        return None
    shortest = min(meaning.num_conditions for meaning in meanings)
    weights = [(1.0 if meaning.kind else 0.25) * 0.3 ** (meaning.num_conditions - shortest) for meaning in meanings]
    return rng.choices(meanings, weights)[0]


def _article(meaning: Description, manner: str, rng: random.Random) -> str:
    if manner == "refcocog":
        return rng.choice(("the", "the", "a"))
    return "the" if not meaning.kind or rng.random() < 0.3 else ""


def _as_typed(rng: random.Random, text: str) -> str:
    """The text as somebody may have typed it: now and then with a capital, a full stop, or all in capitals."""
    habit = rng.random()
    if habit < 0.15:
        text = f"{text[0].upper()}{text[1:]}"
    elif habit < 0.18:
        text = text.upper()
    return f"{text}." if rng.random() < 0.08 else text
