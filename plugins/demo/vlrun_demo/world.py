"""Which images there are, what they are called and which split they belong to.

All splits are disjoint by image, for all datasets alike: joint training cannot leak. Every image set has a range of ids
of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from vlrun_demo.images import Image
from vlrun_demo.pairs import pair_images
from vlrun_demo.scene import make_scene, make_sparse_scene

COCO = "coco"
VQA = "vqa"
GQA = "gqa"
NLVR2 = "nlvr2"

CAST = {"testA": "figures", "testB": "shapes"}  # as RefCOCO's: testA shows people, testB everything else
SPLIT_SIZES = {"train": 900, "val": 60, "testA": 80, "testB": 80}
_FIRST_ID, _ID_STEP = 1009, 37


@dataclass(frozen=True)
class _Run:
    """Images of one split of VQA or GQA: so many ids, evenly spaced.

    Attributes:
        stem: pattern of their names.
        part: name of their feature file.
    """

    split: str
    size: int
    first_id: int
    stem: str
    part: str

    def images(self) -> list[Image]:
        ids = range(self.first_id, self.first_id + self.size * _ID_STEP, _ID_STEP)
        return [Image(number, self.split, self.stem.format(number), self.part, make_sparse_scene) for number in ids]


# VQA v2: minival is a part of val, test-dev one of test; what is left of them is called nominival and test.
_VQA_RUNS = (
    _Run("train", 1400, 100_003, "COCO_train2014_{:012d}", "train2014"),
    _Run("nominival", 100, 200_003, "COCO_val2014_{:012d}", "val2014"),
    _Run("minival", 150, 220_009, "COCO_val2014_{:012d}", "val2014"),
    _Run("test-dev", 40, 300_007, "COCO_test2015_{:012d}", "test2015"),
    _Run("test", 40, 320_009, "COCO_test2015_{:012d}", "test2015"),
)
# GQA: images of Visual Genome have plain numbers, those of the test splits an n before them.
_GQA_RUNS = (
    _Run("train", 1400, 2_300_017, "{}", "vg_gqa"),
    _Run("val", 100, 2_400_011, "{}", "vg_gqa"),
    _Run("testdev", 150, 400_009, "n{}", "gqa_testdev"),
    _Run("test", 40, 450_001, "n{}", "gqa_test"),
)


def images(image_set: str = COCO) -> list[Image]:
    """All images of a set, split after split."""
    return _MAKERS[image_set]()


def _coco_images() -> list[Image]:
    found: list[Image] = []
    for split, size in SPLIT_SIZES.items():
        for position in range(size):
            cast = CAST.get(split, ("figures", "shapes")[position % 2])
            number = _FIRST_ID + _ID_STEP * len(found)
            stem = f"COCO_train2014_{number:012d}"
            found.append(Image(number, split, stem, "train2014", partial(make_scene, cast=cast)))
    return found


_MAKERS: Mapping[str, Callable[[], list[Image]]] = {
    COCO: _coco_images,
    VQA: lambda: [image for run in _VQA_RUNS for image in run.images()],
    GQA: lambda: [image for run in _GQA_RUNS for image in run.images()],
    NLVR2: pair_images,
}
IMAGE_SETS = tuple(_MAKERS)
