"""One image of the world: what it is called, and the scene that it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from vlrun import DemoObject, DemoRelation
from vlrun_demo.meaning import clear_relations
from vlrun_demo.scene import Scene


@dataclass(frozen=True)
class Image:
    """One image of the world, as ``vlrun.DemoImage`` and more; its scene is made on demand.

    Attributes:
        image_id: number of the image; no two images of any set have the same.
        split: the part of the datasets that talks about it.
        stem: its name without suffix, as the annotations of its dataset have it.
        part: name of the feature file that has its row, as LXMERT divides them, such as ``train2014``.
        paint: makes the scene from ``image_id``.
    """

    image_id: int
    split: str
    stem: str
    part: str
    paint: Callable[[int], Scene]

    @property
    def name(self) -> str:
        """File name; the pictures of this world are PNG files."""
        return f"{self.stem}.png"

    def scene(self) -> Scene:
        """Makes the scene, the same one each time."""
        return self.paint(self.image_id)

    @property
    def id(self) -> str:
        """Canonical id."""
        return self.stem

    @property
    def file_name(self) -> str:
        """As official files have it."""
        return self.name

    @property
    def width(self) -> int:
        """In pixels."""
        return self._kept_scene.width

    @property
    def height(self) -> int:
        """In pixels."""
        return self._kept_scene.height

    @property
    def objects(self) -> Sequence[DemoObject]:
        """Its things with their colour, size and pattern."""
        return [
            DemoObject(thing.kind, {"colour": thing.colour, "size": thing.size, "pattern": thing.pattern}, thing.box)
            for thing in self._kept_scene.things
        ]

    @property
    def relations(self) -> Sequence[DemoRelation]:
        """Those that are clear to see."""
        return [DemoRelation(*relation) for relation in clear_relations(self._kept_scene)]

    @cached_property
    def _kept_scene(self) -> Scene:
        return self.scene()


def by_part(images: Iterable[Image]) -> dict[str, list[Image]]:
    """Groups images by their feature file."""
    parts: dict[str, list[Image]] = {}
    for image in images:
        parts.setdefault(image.part, []).append(image)
    return parts
