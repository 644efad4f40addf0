"""What is asked about a scene, apart from words: questions of a few kinds, and their answers.

The datasets put them into words of their own. An answer needs picture and question: yes and no are about as frequent,
and a question never names what it asks.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from vlrun_demo.meaning import Description, referents, unique_subsets
from vlrun_demo.scene import COLOURS, FIGURES, KINDS, Scene, Thing, image_random

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


def answer(scene: Scene, question: Question) -> str:
    """Answers a question rightly: ``yes`` or ``no``, a number, a side, or the value of an attribute."""
    things = referents(scene, question.about)
    if question.asks == "count":
        return str(len(things))
    if question.asks == "exist":
        return _yes_or_no(bool(things))
    if question.asks in ("either", "both"):
        there = [bool(referents(scene, Description(kind=kind))) for kind in question.options]
        return _yes_or_no(any(there) if question.asks == "either" else all(there))
    (thing,) = things
    if question.asks == "side":
        return _side(scene, thing) or "middle"
    assert question.attribute is not None
    value: str = getattr(thing, question.attribute)
    return _yes_or_no(value == question.options[0]) if question.asks == "verify" else value


def questions(scene: Scene, shares: Mapping[str, float], count: int) -> list[Question]:
    """Asks up to ``count`` distinct questions about ``scene``, always the same ones.

    Args:
        shares: how often each kind of question is tried; ``query colour`` and ``query kind`` are kinds of their own.
    """
    rng = image_random(scene.image_id, "questions")
    distinct: dict[Question, None] = {}
    for _ in range(6 * count):
        question = _MAKERS[rng.choices(list(shares), list(shares.values()))[0]](scene, rng)
        if question is not None:
            distinct.setdefault(question)
        if len(distinct) == count:
            break
    return list(distinct)


def _query(scene: Scene, rng: random.Random, attribute: str) -> Question | None:
    single = _single(scene, rng, attribute)
    return single and Question("query", single[1], attribute)


def _side_of(scene: Scene, rng: random.Random) -> Question | None:
    single = _single(scene, rng, "side")
    return Question("side", single[1]) if single and _side(scene, single[0]) else None


def _choose(scene: Scene, rng: random.Random) -> Question | None:
    single = _single(scene, rng, "colour")
    if single is None:
        return None
    thing, about = single
    options = [thing.colour, rng.choice([colour for colour in COLOURS if colour != thing.colour])]
    rng.shuffle(options)
    return Question("choose", about, "colour", tuple(options))


def _verify(scene: Scene, rng: random.Random) -> Question | None:
    """About one of few colours. Things of other colours are asked about less, so that half of the answers are yes."""
    single = _single(scene, rng, "colour")
    if single is None:
        return None
    thing, about = single
    others = [colour for colour in VERIFIED_COLOURS if colour != thing.colour]
    if thing.colour in VERIFIED_COLOURS:
        return Question("verify", about, "colour", (thing.colour if rng.random() < 0.65 else rng.choice(others),))
    return Question("verify", about, "colour", (rng.choice(others),)) if rng.random() < 0.1 else None


def _exist(scene: Scene, rng: random.Random) -> Question | None:
    """About a figure. Scenes without any are asked about less, so that half of the answers are yes."""
    there = sorted({thing.kind for thing in scene.things if thing.is_figure})
    others = [kind for kind in FIGURES if kind not in there]
    if there:
        return Question("exist", Description(kind=rng.choice(there if rng.random() < 0.7 or not others else others)))
    return Question("exist", Description(kind=rng.choice(others))) if rng.random() < 0.25 else None


def _count(scene: Scene, rng: random.Random) -> Question | None:
    """Larger numbers are asked for more often than they occur: otherwise 1 would be a good guess."""
    tally = Counter(thing.kind for thing in scene.things)
    kind = rng.choice(list(tally))
    return Question("count", Description(kind=kind)) if rng.random() < _COUNTED.get(tally[kind], 1.0) else None


def _either(scene: Scene, rng: random.Random) -> Question:
    return Question("either", Description(), options=_two_kinds(scene, rng, 0.3))


def _both(scene: Scene, rng: random.Random) -> Question:
    return Question("both", Description(), options=_two_kinds(scene, rng, 0.7))


def _two_kinds(scene: Scene, rng: random.Random, share_there: float) -> tuple[str, ...]:
    there = sorted({thing.kind for thing in scene.things})
    others = [kind for kind in KINDS if kind not in there]
    chosen: list[str] = []
    while len(chosen) < 2:
        kind = rng.choice(there if rng.random() < share_there else others)
        if kind not in chosen:
            chosen.append(kind)
        elif len(there) == 1:
            chosen.append(rng.choice(others))
    return tuple(chosen)


def _single(scene: Scene, rng: random.Random, asked: str) -> tuple[Thing, Description] | None:
    """A thing, and the shortest description that singles it out without giving away what is asked."""
    described = _described(scene)
    for thing, subsets in rng.sample(described, len(described)):
        silent = [subset for subset in subsets if asked not in subset.attributes]
        if silent:
            shortest = silent[0].num_conditions
            return thing, rng.choice([subset for subset in silent if subset.num_conditions == shortest])
    return None


@lru_cache(maxsize=1)
def _described(scene: Scene) -> list[tuple[Thing, list[Description]]]:
    """Each thing with what singles it out, shortest first; this is asked for again and again."""
    return [
        (
            thing,
            [
                subset
                for subset in unique_subsets(scene, thing)
                if subset.num_conditions and _SILENT.isdisjoint(subset.attributes)
            ],
        )
        for thing in scene.things
    ]


def _side(scene: Scene, thing: Thing) -> str | None:
    offset = thing.centre[0] / scene.width - 0.5
    return None if abs(offset) < _CLEARLY else SIDES[offset > 0]


def _yes_or_no(truth: bool) -> str:
    return "yes" if truth else "no"


_MAKERS: Mapping[str, Callable[[Scene, random.Random], Question | None]] = {
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
