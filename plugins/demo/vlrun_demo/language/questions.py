"""What is asked about an image, apart from words: questions of a few kinds, and their answers.

The datasets put them into words of their own. An answer needs picture and question: yes and no are about as frequent,
and a question never names what it asks.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from vlrun import DemoImage, DemoObject
from vlrun_demo.language.descriptions import Description, referents, unique_subsets, value_of
from vlrun_demo.relations import centre
from vlrun_demo.scene import COLOURS, FIGURES, KINDS, image_random

SIDES = ("left", "right")
VERIFIED_COLOURS = ("red", "green", "blue")
"""Colours that are asked for by name. Yes-or-no questions about few words are learned in a minute, others are not."""

_CLEARLY = 0.05  # of the width: a thing nearer to the middle is on neither side
_COUNTED = {1: 0.12, 2: 0.35}  # number of things -> how often a question whose answer it is stays; larger ones: always
_SILENT = frozenset({"size"})  # no question singles a thing out by it: sizes are hard to compare


@dataclass(frozen=True)
class Question:
    """A question about the things that fit ``about``.

    Attributes:
        asks: ``query`` (which value an attribute has), ``side`` (left or right), ``choose`` (which of two values),
            ``verify`` (whether it is this value), ``exist`` (whether there is any), ``count``, ``either`` and ``both``
            (whether there is this or that, or this and that).
        about: the things in question; a single one for the first four.
        attribute: what is asked of it.
        options: the values that the question names; kinds for ``either`` and ``both``.
    """

    asks: str
    about: Description
    attribute: str | None = None
    options: tuple[str, ...] = ()


def answer(image: DemoImage, question: Question) -> str:
    """Answers a question rightly: ``yes`` or ``no``, a number, a side, or the value of an attribute."""
    things = referents(image, question.about)
    if question.asks == "count":
        return str(len(things))
    if question.asks == "exist":
        return _yes_or_no(bool(things))
    if question.asks in ("either", "both"):
        there = [bool(referents(image, Description(kind=kind))) for kind in question.options]
        return _yes_or_no(any(there) if question.asks == "either" else all(there))
    (thing,) = things
    if question.asks == "side":
        return _side(image, thing) or "middle"
    assert question.attribute is not None
    value: str = value_of(thing, question.attribute)
    return _yes_or_no(value == question.options[0]) if question.asks == "verify" else value


def questions(image: DemoImage, shares: Mapping[str, float], count: int) -> list[Question]:
    """Asks up to ``count`` distinct questions about ``image``, always the same ones.

    Args:
        shares: how often each kind of question is tried; ``query colour`` and ``query kind`` are kinds of their own.
    """
    rng = image_random(image.number, "questions")
    distinct: dict[Question, None] = {}
    for _ in range(6 * count):
        question = _MAKERS[rng.choices(list(shares), list(shares.values()))[0]](image, rng)
        if question is not None:
            distinct.setdefault(question)
        if len(distinct) == count:
            break
    return list(distinct)


def _query(image: DemoImage, rng: random.Random, attribute: str) -> Question | None:
    single = _single(image, rng, attribute)
    return single and Question("query", single[1], attribute)


def _side_of(image: DemoImage, rng: random.Random) -> Question | None:
    single = _single(image, rng, "side")
    return Question("side", single[1]) if single and _side(image, single[0]) else None


def _choose(image: DemoImage, rng: random.Random) -> Question | None:
    single = _single(image, rng, "colour")
    if single is None:
        return None
    thing, about = single
    options = [
        thing.attributes["colour"],
        rng.choice([colour for colour in COLOURS if colour != thing.attributes["colour"]]),
    ]
    rng.shuffle(options)
    return Question("choose", about, "colour", tuple(options))


def _verify(image: DemoImage, rng: random.Random) -> Question | None:
    """About one of few colours. Things of other colours are asked about less, so that half of the answers are yes."""
    single = _single(image, rng, "colour")
    if single is None:
        return None
    thing, about = single
    others = [colour for colour in VERIFIED_COLOURS if colour != thing.attributes["colour"]]
    if thing.attributes["colour"] in VERIFIED_COLOURS:
        return Question(
            "verify", about, "colour", (thing.attributes["colour"] if rng.random() < 0.65 else rng.choice(others),)
        )
    return Question("verify", about, "colour", (rng.choice(others),)) if rng.random() < 0.1 else None


def _exist(image: DemoImage, rng: random.Random) -> Question | None:
    """About a figure. Scenes without any are asked about less, so that half of the answers are yes."""
    there = sorted({thing.name for thing in image.objects if thing.name in FIGURES})
    others = [kind for kind in FIGURES if kind not in there]
    if there:
        return Question("exist", Description(kind=rng.choice(there if rng.random() < 0.7 or not others else others)))
    return Question("exist", Description(kind=rng.choice(others))) if rng.random() < 0.25 else None


def _count(image: DemoImage, rng: random.Random) -> Question | None:
    """Larger numbers are asked for more often than they occur: otherwise 1 would be a good guess."""
    tally = Counter(thing.name for thing in image.objects)
    kind = rng.choice(list(tally))
    return Question("count", Description(kind=kind)) if rng.random() < _COUNTED.get(tally[kind], 1.0) else None


def _either(image: DemoImage, rng: random.Random) -> Question:
    return Question("either", Description(), options=_two_kinds(image, rng, 0.3))


def _both(image: DemoImage, rng: random.Random) -> Question:
    return Question("both", Description(), options=_two_kinds(image, rng, 0.7))


def _two_kinds(image: DemoImage, rng: random.Random, share_there: float) -> tuple[str, ...]:
    there = sorted({thing.name for thing in image.objects})
    others = [kind for kind in KINDS if kind not in there]
    chosen: list[str] = []
    while len(chosen) < 2:
        kind = rng.choice(there if rng.random() < share_there else others)
        if kind not in chosen:
            chosen.append(kind)
        elif len(there) == 1:
            chosen.append(rng.choice(others))
    return tuple(chosen)


def _single(image: DemoImage, rng: random.Random, asked: str) -> tuple[DemoObject, Description] | None:
    """A thing, and the shortest description that singles it out without giving away what is asked."""
    described = _described(image)
    for thing, subsets in rng.sample(described, len(described)):
        silent = [subset for subset in subsets if asked not in subset.attributes]
        if silent:
            shortest = silent[0].num_conditions
            return thing, rng.choice([subset for subset in silent if subset.num_conditions == shortest])
    return None


@lru_cache(maxsize=1)
def _described(image: DemoImage) -> list[tuple[DemoObject, list[Description]]]:
    """Each thing with what singles it out, shortest first; this is asked for again and again."""
    return [
        (
            thing,
            [
                subset
                for subset in unique_subsets(image, thing)
                if subset.num_conditions and _SILENT.isdisjoint(subset.attributes)
            ],
        )
        for thing in image.objects
    ]


def _side(image: DemoImage, thing: DemoObject) -> str | None:
    offset = centre(thing.box)[0] / image.width - 0.5
    return None if abs(offset) < _CLEARLY else SIDES[offset > 0]


def _yes_or_no(truth: bool) -> str:
    return "yes" if truth else "no"


_MAKERS: Mapping[str, Callable[[DemoImage, random.Random], Question | None]] = {
    "query colour": partial(_query, attribute="colour"),
    "query kind": partial(_query, attribute="kind"),
    "side": _side_of,
    "choose": _choose,
    "verify": _verify,
    "exist": _exist,
    "count": _count,
    "either": _either,
    "both": _both,
}
