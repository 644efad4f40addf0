"""What a text says, apart from its words: descriptions of objects, and which objects of an image they fit.

Every text is made from a meaning, and a meaning can be evaluated on an image again. That is how a referring expression
is known to be unambiguous and an answer to be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from vlrun import DemoImage, DemoObject
from vlrun_demo.relations import CLEAR, centre, holds
from vlrun_demo.scene import ATTRIBUTES

PLACES = ("left", "right", "top", "bottom", "top left", "top right", "bottom left", "bottom right", "middle")

_CORNER = 0.12  # what lies in a corner is at least this far from the middle lines of the picture
_NEAR_MIDDLE = 0.2


@dataclass(frozen=True)
class Relation:
    """Where an object is, seen from another one."""

    name: str
    other: Description


@dataclass(frozen=True)
class Description:
    """Conditions on an object; None sets no condition. ``place`` chooses among the objects that fit all the rest."""

    kind: str | None = None
    colour: str | None = None
    size: str | None = None
    pattern: str | None = None
    relation: Relation | None = None
    place: str | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """The stated attributes, by name; the kind is one of them."""
        stated = {name: getattr(self, name) for name in ATTRIBUTES}
        return {name: value for name, value in stated.items() if value is not None}

    @property
    def num_conditions(self) -> int:
        """How many conditions are set."""
        return len(self.attributes) + (self.relation is not None) + (self.place is not None)


def with_attributes(values: Mapping[str, str]) -> Description:
    """A description that states attributes only."""
    return Description(**values)  # type: ignore[arg-type]


def value_of(thing: DemoObject, attribute: str) -> str:
    """The value of an attribute of ``thing``; its name is its ``kind``."""
    return thing.name if attribute == "kind" else thing.attributes[attribute]


def referents(image: DemoImage, description: Description) -> tuple[DemoObject, ...]:
    """Finds the objects that ``description`` fits.

    A relation or place that is not clear fits none of them; a place fits all candidates if two are about as far.
    """
    fitting: Sequence[DemoObject] = image.objects
    for name, value in description.attributes.items():
        fitting = [thing for thing in fitting if value_of(thing, name) == value]
    if description.relation is not None:
        fitting = related(image, fitting, description.relation)
    if description.place is not None:
        fitting = placed(image, fitting, description.place)
    return tuple(fitting)


def refers_to(image: DemoImage, description: Description, thing: DemoObject) -> bool:
    """Whether ``description`` fits ``thing`` and nothing else."""
    return is_only(referents(image, description), thing)


def is_only(things: Sequence[DemoObject], thing: DemoObject) -> bool:
    """Whether ``things`` are ``thing`` and nothing else."""
    return len(things) == 1 and things[0] is thing


def attribute_subsets(thing: DemoObject, most: int = len(ATTRIBUTES)) -> Iterator[Description]:
    """Describes ``thing`` by every choice of at most ``most`` of its attributes, shortest first."""
    names = tuple(ATTRIBUTES)
    for count in range(most + 1):
        for chosen in combinations(names, count):
            yield with_attributes({name: value_of(thing, name) for name in chosen})


def unique_subsets(image: DemoImage, thing: DemoObject) -> list[Description]:
    """Describes ``thing`` by each choice of attributes that singles it out, shortest first; none if it has a twin."""
    return [description for description in attribute_subsets(thing) if refers_to(image, description, thing)]


def true_relations(image: DemoImage, thing: DemoObject, others: Iterable[DemoObject]) -> Iterator[Relation]:
    """Finds clear relations of ``thing`` to those of ``others`` that attributes single out, named in few words."""
    things, relations = image.objects, image.relations
    for other in others:
        names = [found.name for found in relations if things[found.subject] is thing and things[found.object] is other]
        if names and (subsets := unique_subsets(image, other)):
            yield from (Relation(name, subsets[0]) for name in names)


def related(image: DemoImage, candidates: Sequence[DemoObject], relation: Relation) -> list[DemoObject]:
    """Chooses those of ``candidates`` that stand in ``relation``, clearly or not; none if it is not clear to what."""
    anchors = referents(image, relation.other)
    if len(anchors) != 1:
        return []
    size, anchor = (image.width, image.height), anchors[0]
    return [thing for thing in candidates if thing is not anchor and holds(relation.name, thing.box, anchor.box, size)]


def placed(image: DemoImage, candidates: Sequence[DemoObject], place: str) -> Sequence[DemoObject]:
    """Chooses the candidate furthest towards ``place``: none if that is not far enough, all if two are about as far."""
    towards, needed = _DIRECTIONS[place]
    reached = [towards(*_position(image, thing)) for thing in candidates]
    furthest = max(reached, default=needed - 1)
    if furthest < needed:
        return []
    rivals = sum(furthest - other < CLEAR for other in reached) > 1
    return candidates if rivals else [candidates[reached.index(furthest)]]


def _position(image: DemoImage, thing: DemoObject) -> tuple[float, float]:
    """The centre from the middle of the picture, in [-0.5, 0.5], x to the right and y downwards."""
    x, y = centre(thing.box)
    return x / image.width - 0.5, y / image.height - 0.5


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
