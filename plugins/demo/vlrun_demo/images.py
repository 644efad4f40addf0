"""One image of the world: what it is called, and the scene that it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from vlrun import DemoObject, DemoRelation
from vlrun_demo.outlines import outline
from vlrun_demo.relations import clear_relations
from vlrun_demo.scene import Scene


@dataclass(frozen=True)
class Image:
    """One image of the world, as ``vlrun.DemoImage`` and more; its scene is made on demand.

    Attributes:
        number, split, id, part: as others have it.
        paint: makes the scene from ``number``.
    """

    number: int
    split: str
    id: str
    part: str
    paint: Callable[[int], Scene]

    @property
    def file_name(self) -> str:
        """The pictures of this world are PNG files."""
        return f"{self.id}.png"

    @cached_property
    def scene(self) -> Scene:
        """What it shows."""
        return self.paint(self.number)

    @property
    def width(self) -> int:
        """In pixels."""
        return self.scene.width

    @property
    def height(self) -> int:
        """In pixels."""
        return self.scene.height

    @property
    def background(self) -> str:
        """One of ``BACKGROUNDS``."""
        return self.scene.background

    @cached_property
    def objects(self) -> Sequence[DemoObject]:
        """Its things with their colour, size and pattern."""
        return tuple(
            DemoObject(
                thing.kind,
                {"colour": thing.colour, "size": thing.size, "pattern": thing.pattern},
                thing.box,
                outline(thing),
            )
            for thing in self.scene.things
        )

    @cached_property
    def relations(self) -> Sequence[DemoRelation]:
        """Those that are clear to see."""
        return tuple(DemoRelation(*relation) for relation in clear_relations(self.scene))
