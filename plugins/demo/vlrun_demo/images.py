"""One image of the world: what it is called, and the scene that it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vlrun_demo.scene import Scene


@dataclass(frozen=True)
class Image:
    """One image of the world; its scene is made on demand.

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


def by_part(images: Iterable[Image]) -> dict[str, list[Image]]:
    """Groups images by their feature file."""
    parts: dict[str, list[Image]] = {}
    for image in images:
        parts.setdefault(image.part, []).append(image)
    return parts
