"""Pairs of images with statements about them, in sets as NLVR2 has them.

A set is four pairs of images and two statements: one about the background, which is easy to see and by which a tiny
model learns what left, right and both mean, and one about a figure or a colour. Each statement is true of two of the
pairs and false of the others, so its words tell nothing. Part of what makes a statement false is another thing in the
place of the one it names; where there is none, looking without reading helps, which is how learning gets started.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from vlrun import DemoImage, DemoImageRequest
from vlrun.seeds import derive_seed
from vlrun_demo.language import (
    BACKGROUNDS,
    COLOURS,
    FIGURES,
    NUMBERS,
    PATTERNS,
    SHAPES,
    SIZES,
    Description,
    plain_phrase,
    referents,
    with_article,
)

SET_COUNTS = {"train": 450, "dev": 50, "test1": 50, "test2": 20}
PAIRS_PER_SET = 4

NAMED_COLOURS = ("red", "blue")
"""Statements are about these colours, or about figures; other colours and shapes fill the images."""

_PARTS = {"train": "train", "dev": "valid", "test1": "test", "test2": "test2"}  # LXMERT's names of the feature files
_FIRST_ID, _IDS_PER_SPLIT = 10_000_000, 100_000
_OTHER_COLOURS = tuple(colour for colour in COLOURS if colour not in NAMED_COLOURS)
_NOTHING_THERE = 0.4  # share of images where what is stated has nothing in its place
_FIGURES_SHOWN = (1, 2, 2, 2)  # of the kind that a statement is about, where it does not say how many
_MOST_SHAPES = 2  # of an image; they have the colour that a statement is about
_SHARE_OF_TWO = 0.15  # of the statements about figures: that there are exactly two

NAMED_BACKGROUNDS = ("white", "grey")

WHERE = ("left", "right", "both", "any")
_TEMPLATES = {
    "left": ("The left image contains {}.", "There is {} in the left image."),
    "right": ("The right image contains {}.", "There is {} in the right image."),
    "both": ("Both images contain {}.", "There is {} in each image."),
    "any": ("At least one image shows {}.",),
}

_BACKGROUND_TEMPLATES = {
    "left": "The left image has a {} background.",
    "right": "The right image has a {} background.",
    "both": "Both images have a {} background.",
    "any": "At least one image has a {} background.",
}

Object = tuple[str, Mapping[str, str]]
Sides = tuple[bool, bool]


@dataclass(frozen=True)
class Statement:
    """What is said of a pair of images: that some of them show something.

    Attributes:
        where: ``left``, ``right``, ``both``, or ``any`` for at least one of them.
        about: a kind of figure, or a colour; no condition where ``background`` is what the statement is about.
        two: whether exactly two such things are meant, not at least one.
        text: the sentence.
    """

    where: str
    about: Description
    two: bool
    text: str
    background: str | None = None

    def is_true(self, left: DemoImage, right: DemoImage) -> bool:
        """Whether the statement holds for a pair of images."""
        return _holds(self.where, (self._fits(left), self._fits(right)))

    def _fits(self, image: DemoImage) -> bool:
        if self.background is not None:
            return image.background == self.background
        count = len(referents(image, self.about))
        return count == 2 if self.two else count >= 1


@dataclass(frozen=True)
class PairSet:
    """Four pairs of images, left and right, and two statements about each of them."""

    split: str
    number: int
    images: tuple[tuple[DemoImageRequest, DemoImageRequest], ...]
    statements: tuple[Statement, Statement]


@cache
def pair_sets() -> tuple[PairSet, ...]:
    """Makes all sets, split after split."""
    return tuple(_pair_set(split, number) for split, count in SET_COUNTS.items() for number in range(count))


def pair_images() -> list[DemoImageRequest]:
    """Asks for the images of all sets."""
    return [image for pair_set in pair_sets() for pair in pair_set.images for image in pair]


def _pair_set(split: str, number: int) -> PairSet:
    rng = random.Random(derive_seed("demo", "pairs", split, number))  # noqa: S311
    about = [_about_background(rng), rng.choice((_about_figure, _about_colour))(rng)]
    rng.shuffle(about)
    sides = [_sides(statement, rng) for statement in about]

    def image(pair: int, side: int) -> DemoImageRequest:
        wanted = {statement: pairs[pair][side] for statement, pairs in zip(about, sides, strict=True)}
        return _image(split, number, pair, side, wanted, rng)

    images = tuple((image(pair, 0), image(pair, 1)) for pair in range(PAIRS_PER_SET))
    return PairSet(split, number, images, (about[0], about[1]))


def _about_figure(rng: random.Random) -> Statement:
    about = Description(kind=rng.choice(FIGURES))
    two = rng.random() < _SHARE_OF_TWO
    phrase = f"exactly {NUMBERS[2]} {plain_phrase(about, plural=True)}" if two else _a(about)
    return _statement(rng, about, two, phrase)


def _about_colour(rng: random.Random) -> Statement:
    about = Description(colour=rng.choice(NAMED_COLOURS))
    return _statement(rng, about, False, f"something {about.colour}")


def _about_background(rng: random.Random) -> Statement:
    where, background = rng.choice(WHERE), rng.choice(NAMED_BACKGROUNDS)
    return Statement(where, Description(), False, _BACKGROUND_TEMPLATES[where].format(background), background)


def _statement(rng: random.Random, about: Description, two: bool, phrase: str) -> Statement:
    where = rng.choice(WHERE)
    text = rng.choice(_TEMPLATES[where]).format(phrase)
    return Statement(where, about, two, text.replace("There is exactly", "There are exactly"))


def _a(about: Description) -> str:
    return with_article("a", plain_phrase(about))


def _sides(statement: Statement, rng: random.Random) -> list[Sides]:
    """For each pair, which of its images fit: two pairs make the statement true, two make it false."""
    truths = rng.sample((True, True, False, False), PAIRS_PER_SET)
    possible: list[Sides] = [(left, right) for left in (True, False) for right in (True, False)]
    return [rng.choice([sides for sides in possible if _holds(statement.where, sides) == truth]) for truth in truths]


def _holds(where: str, fits: Sides) -> bool:
    return {"left": fits[0], "right": fits[1], "both": all(fits), "any": any(fits)}[where]


def _contents(wanted: Mapping[Statement, bool], rng: random.Random) -> list[Object]:
    """Things of one image that fit each of the statements, or do not."""
    figures = [rng.choice(FIGURES) for _ in range(rng.choice((0, 1, 2)))]
    colour: str | None = rng.choice(_OTHER_COLOURS)
    for statement, fits in wanted.items():
        if statement.about.kind is not None:
            figures = _figures(statement, fits, rng)
        elif statement.about.colour is not None:
            colour = _named_colour(statement, fits, rng)
    shapes = rng.sample(SHAPES, rng.randint(1, _MOST_SHAPES))
    colours = [*(rng.choice(_OTHER_COLOURS) for _ in figures), *(colour or rng.choice(_OTHER_COLOURS) for _ in shapes)]
    return [
        (kind, {"colour": colour, "size": rng.choice(SIZES), "pattern": rng.choice(PATTERNS)})
        for kind, colour in zip([*figures, *shapes], colours, strict=True)
    ]


def _background(wanted: Mapping[Statement, bool], rng: random.Random) -> str:
    for statement, fits in wanted.items():
        if (named := statement.background) is not None:
            return named if fits else rng.choice([other for other in BACKGROUNDS if other != named])
    return rng.choice(BACKGROUNDS)


def _figures(statement: Statement, fits: bool, rng: random.Random) -> list[str]:
    kind = statement.about.kind
    assert kind is not None
    if not fits:
        if rng.random() < _NOTHING_THERE:
            return []
        if statement.two and rng.random() < 0.5:
            return [kind]
        kind = rng.choice([other for other in FIGURES if other != kind])
    return [kind] * (2 if statement.two else rng.choice(_FIGURES_SHOWN))


def _named_colour(statement: Statement, fits: bool, rng: random.Random) -> str | None:
    if fits:
        return statement.about.colour
    if rng.random() < _NOTHING_THERE:
        return None
    return rng.choice([other for other in NAMED_COLOURS if other != statement.about.colour])


def _image(
    split: str, number: int, pair: int, side: int, wanted: Mapping[Statement, bool], rng: random.Random
) -> DemoImageRequest:
    """Asks for the image that makes its part of each statement true or false."""
    first = _FIRST_ID + list(SET_COUNTS).index(split) * _IDS_PER_SPLIT
    return DemoImageRequest(
        number=first + (number * PAIRS_PER_SET + pair) * 2 + side,
        id=f"{split}-{number}-{pair}-img{side}",
        split=split,
        part=_PARTS[split],
        objects=_contents(wanted, rng),
        background=_background(wanted, rng),
    )
