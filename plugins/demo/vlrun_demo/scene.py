"""What is to be seen in one image: coloured things of several kinds, sizes and patterns, and where they are.

A scene is the single source of everything else: the picture is drawn from it, region features are computed from it,
and texts are written about it. All of its choices derive from its image id, so one scene never depends on another.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vlrun.seeds import derive_seed

FIGURES = ("robot", "ghost", "cat")
SHAPES = ("ball", "box", "triangle", "star", "ring", "heart")
KINDS = (*FIGURES, *SHAPES)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SIZES = ("small", "medium", "large")
PATTERNS = ("plain", "striped", "dotted", "checked")
BACKGROUNDS = ("white", "grey", "sand", "sky")

ATTRIBUTES = {"kind": KINDS, "colour": COLOURS, "size": SIZES, "pattern": PATTERNS}

_SHAPES_OF_PICTURES = ((640, 480), (640, 480), (480, 640), (640, 427), (500, 375), (512, 512))  # (width, height)
_HEIGHTS = {"small": (0.12, 0.15), "medium": (0.22, 0.26), "large": (0.36, 0.42)}  # shares of the shorter side
_ASPECTS = {"robot": 0.75, "ghost": 0.85}  # width / height; 1 for all others
_LARGE_THINGS = 2  # more would leave no room for the rest
_OVERLAP = 0.1  # share of the smaller of two things that the other may cover
_FEWEST, _MOST = 5, 9
_FEW = (4, 4, 3, 2)  # weights of one to four things in a sparse scene

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    """One thing in a scene; ``box`` is xyxy in pixels and touches the outline on all four sides."""

    kind: str
    colour: str
    size: str
    pattern: str
    box: Box

    @property
    def attributes(self) -> tuple[str, str, str, str]:
        """Kind, colour, size and pattern."""
        return self.kind, self.colour, self.size, self.pattern


@dataclass(frozen=True)
class Scene:
    """Everything that is to be seen in one image.

    Attributes:
        image_id: number of the image; all random choices about the image derive from it.
        width, height: in pixels.
        background: one of ``BACKGROUNDS``.
        things: in drawing order; later ones lie on top where two overlap a little.
    """

    image_id: int
    width: int
    height: int
    background: str
    things: tuple[Thing, ...]


def image_random(number: int, purpose: str) -> random.Random:
    """The generator for one purpose in one image: texts, pictures and features never share draws."""
    return random.Random(derive_seed("demo", number, purpose))  # noqa: S311


def make_scene(image_id: int, *, cast: str = "shapes") -> Scene:
    """The scene of an image. ``cast`` is ``figures`` (mostly robots, ghosts, cats) or ``shapes`` (mostly the rest)."""
    rng = image_random(image_id, "scene")
    width, height = rng.choice(_SHAPES_OF_PICTURES)
    palette = _Palette(rng, cast)
    things: list[Thing] = []
    wanted = rng.randint(_FEWEST + 1, _MOST)
    while len(things) < wanted:
        attributes = palette.draw(things)
        box = _free_place(rng, attributes[0], attributes[2], width, height, things)
        if box is not None:
            things.append(Thing(*attributes, box))
        elif len(things) >= _FEWEST:
            break
        else:  # unlucky: the few things there are block all places
            things.clear()
    return Scene(image_id, width, height, rng.choice(BACKGROUNDS), tuple(things))


def make_sparse_scene(image_id: int) -> Scene:
    """A scene of one to four things, of two kinds, two colours and two patterns: easy to take in at a glance."""
    rng = image_random(image_id, "scene")
    kinds, colours, patterns = rng.sample(KINDS, 2), rng.sample(COLOURS, 2), rng.sample(PATTERNS, 2)
    count = rng.choices((1, 2, 3, 4), _FEW)[0]
    return arrange(
        image_id,
        [
            (rng.choices(kinds, (3, 2))[0], rng.choices(colours, (3, 2))[0], rng.choice(SIZES), rng.choice(patterns))
            for _ in range(count)
        ],
    )


def arrange(image_id: int, wanted: Sequence[tuple[str, str, str, str]], background: str | None = None) -> Scene:
    """A scene of exactly the things with the ``wanted`` kinds, colours, sizes and patterns, at random places.

    Where ``background`` is None, it is random too.
    """
    rng = image_random(image_id, "places")
    width, height = rng.choice(_SHAPES_OF_PICTURES)
    things: list[Thing] = []
    while len(things) < len(wanted):
        attributes = wanted[len(things)]
        box = _free_place(rng, attributes[0], attributes[2], width, height, things)
        if box is None:  # the things there are block all places
            things.clear()
        else:
            things.append(Thing(*attributes, box))
    return Scene(image_id, width, height, background or rng.choice(BACKGROUNDS), tuple(things))


class _Palette:
    """Draws the attributes of things so that they share many: one word alone seldom tells them apart."""

    def __init__(self, rng: random.Random, cast: str) -> None:
        main, other = (FIGURES, SHAPES) if cast == "figures" else (SHAPES, FIGURES)
        self.rng = rng
        self.kinds = [*rng.sample(main, 2), rng.choice(main), rng.choice(other)]
        self.kind_weights = [4, 4, 2, 1]
        self.colours = rng.sample(COLOURS, 3)
        self.patterns = ["plain", "plain", *rng.sample(PATTERNS[1:], 2)]

    def draw(self, things: list[Thing]) -> tuple[str, str, str, str]:
        """Attributes of a new thing; more often than not those of an earlier thing with one of them changed."""
        rng = self.rng
        num_large = sum(thing.size == "large" for thing in things)
        sizes = SIZES if num_large < _LARGE_THINGS else SIZES[:2]
        fresh = (
            rng.choices(self.kinds, self.kind_weights)[0],
            rng.choice(self.colours),
            rng.choice(sizes),
            rng.choice(self.patterns),
        )
        if not things or rng.random() < 0.4:
            return fresh
        twin = list(rng.choice(things).attributes)
        changed = rng.randrange(len(twin))
        twin[changed] = fresh[changed]
        if twin[2] not in sizes:
            twin[2] = fresh[2]
        kind, colour, size, pattern = twin
        if any(thing.attributes == (kind, colour, size, pattern) for thing in things) and rng.random() < 0.7:
            return self.draw(things)  # some twins stay: only their place tells them apart
        return kind, colour, size, pattern


def _free_place(
    rng: random.Random, kind: str, size: str, width: int, height: int, things: list[Thing], tries: int = 40
) -> Box | None:
    for _ in range(tries):
        tall = rng.uniform(*_HEIGHTS[size]) * min(width, height)
        wide = tall * _ASPECTS.get(kind, 1.0) * rng.uniform(0.92, 1.08)
        x1 = rng.uniform(2, width - 2 - wide)
        y1 = rng.uniform(2, height - 2 - tall)
        box = (round(x1, 2), round(y1, 2), round(x1 + wide, 2), round(y1 + tall, 2))
        if all(_covered(box, thing.box) <= _OVERLAP for thing in things):
            return box
    return None


def area(box: Box) -> float:
    """Area in square pixels; 0 for a box whose corners are swapped."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def intersection(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def _covered(a: Box, b: Box) -> float:
    """Share of the smaller box that the other covers."""
    return intersection(a, b) / min(area(a), area(b))
