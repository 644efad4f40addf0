"""What a text says, apart from its words: descriptions of things, and which things of a scene they fit.

Every text of the demo world is made from a meaning, and a meaning can be evaluated on a scene again. That is how a
referring expression is known to be unambiguous and an answer to be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from vlrun_demo.scene import ATTRIBUTES, Scene, Thing

PLACES = ("left", "right", "top", "bottom", "top left", "top right", "bottom left", "bottom right", "middle")
RELATIONS = ("left of", "right of", "above", "below", "next to")

CLEAR = 0.1  # of the picture's width or height: differences below it are nothing to speak of
_CORNER = 0.12  # what lies in a corner is at least this far from the middle lines of the picture
_NEAR_MIDDLE = 0.2
_NEAR = 0.12


@dataclass(frozen=True)
class Relation:
    """Where a thing is, seen from another one."""

    name: str
    other: Description


@dataclass(frozen=True)
class Description:
    """Conditions on a thing; None sets no condition. ``place`` chooses among the things that fit all the rest."""

    kind: str | None = None
    colour: str | None = None
    size: str | None = None
    pattern: str | None = None
    relation: Relation | None = None
    place: str | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """The stated attributes, by name."""
        stated = {name: getattr(self, name) for name in ATTRIBUTES}
        return {name: value for name, value in stated.items() if value is not None}

    @property
    def num_conditions(self) -> int:
        """How many conditions are set."""
        return len(self.attributes) + (self.relation is not None) + (self.place is not None)


def with_attributes(values: Mapping[str, str]) -> Description:
    """A description that states attributes only."""
    return Description(**values)  # type: ignore[arg-type]


def referents(scene: Scene, description: Description) -> tuple[Thing, ...]:
    """Finds the things that ``description`` fits.

    A relation or place that is not clear fits none of them; a place fits all candidates if two are about as far.
    """
    fitting: Sequence[Thing] = scene.things
    for name, value in description.attributes.items():
        fitting = [thing for thing in fitting if getattr(thing, name) == value]
    if description.relation is not None:
        fitting = related(scene, fitting, description.relation)
    if description.place is not None:
        fitting = placed(scene, fitting, description.place)
    return tuple(fitting)


def refers_to(scene: Scene, description: Description, thing: Thing) -> bool:
    """Whether ``description`` fits ``thing`` and nothing else."""
    return is_only(referents(scene, description), thing)


def is_only(things: Sequence[Thing], thing: Thing) -> bool:
    """Whether ``things`` are ``thing`` and nothing else."""
    return len(things) == 1 and things[0] is thing


def attribute_subsets(thing: Thing, most: int = len(ATTRIBUTES)) -> Iterator[Description]:
    """Describes ``thing`` by every choice of at most ``most`` of its attributes, shortest first."""
    names = tuple(ATTRIBUTES)
    for count in range(most + 1):
        for chosen in combinations(names, count):
            yield with_attributes({name: getattr(thing, name) for name in chosen})


def unique_subsets(scene: Scene, thing: Thing) -> list[Description]:
    """Describes ``thing`` by each choice of attributes that singles it out, shortest first; none if it has a twin."""
    return [description for description in attribute_subsets(thing) if refers_to(scene, description, thing)]


def true_relations(scene: Scene, thing: Thing, others: Iterable[Thing]) -> Iterator[Relation]:
    """Finds clear relations of ``thing`` to those of ``others`` that attributes single out, named in few words."""
    for other in others:
        subsets = unique_subsets(scene, other) if other is not thing else []
        for name in RELATIONS if subsets else ():
            if _holds(scene, name, thing, other, CLEAR):
                yield Relation(name, subsets[0])


def clear_relations(scene: Scene) -> Iterator[tuple[int, str, int]]:
    """Finds every clear relation between two things, by their positions in the scene."""
    for subject, thing in enumerate(scene.things):
        for other, anchor in enumerate(scene.things):
            for name in RELATIONS if other != subject else ():
                if _holds(scene, name, thing, anchor, CLEAR):
                    yield subject, name, other


def related(scene: Scene, candidates: Sequence[Thing], relation: Relation) -> list[Thing]:
    """Chooses those of ``candidates`` that stand in ``relation``; none if it is not clear to what."""
    anchors = referents(scene, relation.other)
    if len(anchors) != 1:
        return []
    others = [thing for thing in candidates if thing is not anchors[0]]
    return [thing for thing in others if _holds(scene, relation.name, thing, anchors[0], 0.0)]


def placed(scene: Scene, candidates: Sequence[Thing], place: str) -> Sequence[Thing]:
    """Chooses the candidate furthest towards ``place``: none if that is not far enough, all if two are about as far."""
    towards, needed = _DIRECTIONS[place]
    reached = [towards(*_position(scene, thing)) for thing in candidates]
    furthest = max(reached, default=needed - 1)
    if furthest < needed:
        return []
    rivals = sum(furthest - other < CLEAR for other in reached) > 1
    return candidates if rivals else [candidates[reached.index(furthest)]]


def _holds(scene: Scene, name: str, thing: Thing, anchor: Thing, margin: float) -> bool:
    """Whether a relation holds by at least ``margin``; with margin 0, what a generous reader would let pass."""
    if name == "next to":
        return _gap(scene, thing, anchor) <= _NEAR - margin / 2
    dx = (thing.centre[0] - anchor.centre[0]) / scene.width
    dy = (thing.centre[1] - anchor.centre[1]) / scene.height
    return {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[name] > margin


def _gap(scene: Scene, a: Thing, b: Thing) -> float:
    """Distance between two boxes, as a share of the picture's shorter side."""
    dx = max(a.box[0] - b.box[2], b.box[0] - a.box[2], 0.0)
    dy = max(a.box[1] - b.box[3], b.box[1] - a.box[3], 0.0)
    return float((dx * dx + dy * dy) ** 0.5) / min(scene.width, scene.height)


def _position(scene: Scene, thing: Thing) -> tuple[float, float]:
    """The centre from the middle of the picture, in [-0.5, 0.5], x to the right and y downwards."""
    return thing.centre[0] / scene.width - 0.5, thing.centre[1] / scene.height - 0.5


def _direction(place: str) -> tuple[Callable[[float, float], float], float]:
    """How far a position lies towards ``place``, and how far it has to be."""
    if place == "middle":
        return (lambda x, y: -((x * x + y * y) ** 0.5)), -_NEAR_MIDDLE
    x_sign = ("right" in place) - ("left" in place)
    y_sign = ("bottom" in place) - ("top" in place)
    if x_sign and y_sign:  # a corner is near both of its edges: the one that is further away counts
        return (lambda x, y: min(x_sign * x, y_sign * y)), _CORNER
    return (lambda x, y: x_sign * x + y_sign * y), CLEAR


_DIRECTIONS = {place: _direction(place) for place in PLACES}
