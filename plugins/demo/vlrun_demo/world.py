"""Which images there are, what they are called and which split they belong to.

All splits are disjoint by image, for all datasets alike: joint training cannot leak. Image sets for other datasets
(pairs for NLVR2, images for pre-training) take id ranges of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlrun_demo.scene import Scene, make_scene

COCO = "coco"
IMAGE_SETS = (COCO,)

CAST = {"testA": "figures", "testB": "shapes"}  # as RefCOCO's: testA shows people, testB everything else
SPLIT_SIZES = {"train": 900, "val": 60, "testA": 80, "testB": 80}
_FIRST_ID, _ID_STEP = 1009, 37


@dataclass(frozen=True)
class Image:
    """One image of the world; its scene is made on demand."""

    image_id: int
    split: str
    cast: str

    @property
    def stem(self) -> str:
        """The name as COCO has it, without suffix."""
        return f"COCO_train2014_{self.image_id:012d}"

    @property
    def name(self) -> str:
        """File name; the pictures of this world are PNG files."""
        return f"{self.stem}.png"

    def scene(self) -> Scene:
        return make_scene(self.image_id, cast=self.cast)


def images(image_set: str = COCO) -> list[Image]:
    """All images of a set, split after split."""
    assert image_set in IMAGE_SETS
    found: list[Image] = []
    for split, size in SPLIT_SIZES.items():
        for position in range(size):
            cast = CAST.get(split, ("figures", "shapes")[position % 2])
            found.append(Image(_FIRST_ID + _ID_STEP * len(found), split, cast))
    return found
