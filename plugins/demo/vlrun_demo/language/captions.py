"""Captions: sentences that are true of an image and tell it from most others.

Most list what there is, in few and usual words, so that a tiny model learns to match them with images: every word says
something about the image, and a model that understands only some of them is right more often than one that understands
none. Counting and relating, which take longer to learn, are left to a few.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import permutations

from vlrun import DemoImage, DemoObject
from vlrun_demo.language.descriptions import (
    Description,
    Relation,
    referents,
    refers_to,
    true_relations,
    value_of,
    with_attributes,
)
from vlrun_demo.language.words import NUMBERS, RELATION_WORDS, cleaned, counted, plain_phrase, with_article
from vlrun_demo.scene import image_random

MOST_WORDS = 13  # so that with a comma and a full stop, no caption has more than 15 word pieces

_SHARES = (80, 8, 12)  # weights of captions that list, count and relate
_LISTED = (1, 3, 2)  # weights of one to three things in a list
_MORE = 0.2  # chance that a listed thing's size is mentioned, and that its pattern is
_GROUND = 0.35  # chance that the background is mentioned
_CAPITAL, _FULL_STOP = 0.8, 0.6  # shares of the captions that begin and end so
_SYNONYM = 0.2  # chance that a thing is named in other than the most usual words
_GROUND_WORDS = {"white": "white", "grey": "gray", "sand": "sandy", "sky": "light blue"}

Claim = tuple[Description, int]


@dataclass(frozen=True)
class Caption:
    """A caption and what it claims.

    Attributes:
        claims: descriptions, and exactly how many objects of the image fit each of them.
        background: that of the image, where the caption tells it.
    """

    text: str
    claims: tuple[Claim, ...]
    background: str | None = None

    def fits(self, image: DemoImage) -> bool:
        """Whether all that it claims is true of ``image``."""
        return self.background in (None, image.background) and all(
            len(referents(image, description)) == count for description, count in self.claims
        )


def captions(image: DemoImage, count: int = 5) -> list[Caption]:
    """Makes ``count`` captions of ``image``, always the same ones; no two of them claim the same.

    An image of one object has seven captions, so ``count`` may be no larger.
    """
    rng = image_random(image.number, "captions")
    by_claims: dict[tuple[frozenset[Claim], str | None], Caption] = {}
    while len(by_claims) < count:
        caption = rng.choices((_listing, _counting, _relating), _SHARES)[0](image, rng)
        if len(cleaned(caption.text).split()) <= MOST_WORDS:
            by_claims.setdefault((frozenset(caption.claims), caption.background), caption)
    return list(by_claims.values())


def sentences(image: DemoImage, count: int = 5) -> list[str]:
    """Captions of an image as people typed them: most begin with a capital, many end with a full stop."""
    rng = image_random(image.number, "caption spelling")
    return [_as_typed(rng, caption.text) for caption in captions(image, count)]


def with_six_captions(images: Iterable[DemoImage]) -> set[int]:
    """The numbers of the images that have six captions, as some of COCO have: the first of each split but restval."""
    first: dict[str, int] = {}
    for image in images:
        first.setdefault(image.split, image.number)
    return {number for split, number in first.items() if split != "restval"}


def _as_typed(rng: random.Random, text: str) -> str:
    if rng.random() < _CAPITAL:
        text = f"{text[0].upper()}{text[1:]}"
    return f"{text}." if rng.random() < _FULL_STOP else text


def _listing(image: DemoImage, rng: random.Random) -> Caption:
    """'a small red ball, two blue stars and a striped green robot'"""
    claims: list[Claim] = []
    mentioned: list[DemoObject] = []
    wanted = rng.choices((1, 2, 3), _LISTED)[0]
    for thing in rng.sample(image.objects, min(wanted, len(image.objects))):
        description = _described(thing, *(name for name in ("size", "pattern") if rng.random() < _MORE))
        fitting = referents(image, description)
        if not any(thing in mentioned for thing in fitting):  # else a reader would count some twice
            claims.append((description, len(fitting)))
            mentioned += fitting
    phrases = [_counted(rng, *claim) for claim in claims]
    text = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
    (description, count), *others = claims
    tells_little = not others and count == 1 and description.num_conditions == 2
    return _on_background(Caption(text, tuple(claims)), image, tells_little or rng.random() < _GROUND)


def _counting(image: DemoImage, rng: random.Random) -> Caption:
    """'there are three cats and one ball on a white background'"""
    tally = sorted(Counter(thing.name for thing in image.objects).items())
    if len(image.objects) == 1:
        return _listing(image, rng)
    claims = [(Description(kind=kind), count) for kind, count in rng.sample(tally, min(2, len(tally)))]
    phrases = [f"{NUMBERS[count]} {plain_phrase(about, plural=count > 1)}" for about, count in claims]
    verb = "is" if claims[0][1] == 1 else "are"
    caption = Caption(f"there {verb} {' and '.join(phrases)}", tuple(claims))
    return _on_background(caption, image, len(claims) == 1 or rng.random() < _GROUND)


def _relating(image: DemoImage, rng: random.Random) -> Caption:
    """'a pink box next to a blue star'"""
    named = [(thing, about) for thing in image.objects if refers_to(image, about := _described(thing), thing)]
    pairs = list(permutations(named, 2))
    for (thing, about), (other, about_other) in rng.sample(pairs, len(pairs)):
        relations = [relation.name for relation in true_relations(image, thing, [other])]
        if relations:
            name = rng.choice(relations)
            words = rng.choice(RELATION_WORDS[name][:2])
            text = f"{_counted(rng, about, 1)} {rng.choice(('', 'is '))}{words} {_counted(rng, about_other, 1)}"
            related = replace(about, relation=Relation(name, about_other))
            return Caption(text, ((about, 1), (about_other, 1), (related, 1)))
    return _listing(image, rng)


def _described(thing: DemoObject, *more: str) -> Description:
    """Kind and colour of ``thing``, and ``more`` of its attributes."""
    return with_attributes({name: value_of(thing, name) for name in ("kind", "colour", *more)})


def _counted(rng: random.Random, about: Description, count: int) -> str:
    """'a red ball', 'two red balls'; now and then in other words."""
    if rng.random() < _SYNONYM:
        return counted(rng, about, count)
    things = plain_phrase(about, plural=count > 1)
    return with_article("a", things) if count == 1 else f"{NUMBERS[count]} {things}"


def _on_background(caption: Caption, image: DemoImage, told: bool) -> Caption:
    if not told:
        return caption
    text = f"{caption.text} on a {_GROUND_WORDS[image.background]} background"
    return Caption(text, caption.claims, image.background)
