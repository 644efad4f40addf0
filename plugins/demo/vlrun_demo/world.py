"""Which images there are, what they are called and which split they belong to.

All splits are disjoint by image, for all datasets alike: joint training cannot leak. Every image set has a range of ids
of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from vlrun_demo.images import Image
from vlrun_demo.pairs import pair_images
from vlrun_demo.scene import make_scene, make_sparse_scene

COCO = "coco"
VQA = "vqa"
GQA = "gqa"
NLVR2 = "nlvr2"
RETRIEVAL = "retrieval"
FLICKR = "flickr"
PRETRAINING = "pretraining"

CAST = {"testA": "figures", "testB": "shapes"}  # as RefCOCO's: testA shows people, testB everything else
SPLIT_SIZES = {"train": 900, "val": 60, "testA": 80, "testB": 80}
_FIRST_ID, _ID_STEP = 1009, 37


@dataclass(frozen=True)
class _Run:
    """Images of one split: so many ids, evenly spaced, and a sparse scene for each.

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
# Karpathy's splits of COCO: retrieval trains on restval too, and all but train is of val2014.
_RETRIEVAL_RUNS = (
    _Run("train", 560, 500_009, "COCO_train2014_{:012d}", "train2014"),
    _Run("restval", 140, 530_017, "COCO_val2014_{:012d}", "val2014"),
    _Run("val", 60, 540_011, "COCO_val2014_{:012d}", "val2014"),
    _Run("test", 100, 550_007, "COCO_val2014_{:012d}", "val2014"),
)
# Flickr30k: plain numbers, longer than those of Visual Genome.
_FLICKR_RUNS = (
    _Run("train", 700, 1_000_000_007, "{}", "flickr30k"),
    _Run("val", 60, 1_100_000_009, "{}", "flickr30k"),
    _Run("test", 100, 1_200_000_041, "{}", "flickr30k"),
)
# COCO's own splits, for pre-training: in truth they hold all images of COCO, here none that anything is tested on.
_PRETRAINING_RUNS = (
    _Run("train", 1500, 600_011, "COCO_train2014_{:012d}", "train2014"),
    _Run("val", 60, 660_001, "COCO_val2014_{:012d}", "val2014"),
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


def _images_of(runs: Iterable[_Run]) -> list[Image]:
    return [image for run in runs for image in run.images()]


_MAKERS: Mapping[str, Callable[[], list[Image]]] = {
    COCO: _coco_images,
    VQA: partial(_images_of, _VQA_RUNS),
    GQA: partial(_images_of, _GQA_RUNS),
    NLVR2: pair_images,
    RETRIEVAL: partial(_images_of, _RETRIEVAL_RUNS),
    FLICKR: partial(_images_of, _FLICKR_RUNS),
    PRETRAINING: partial(_images_of, _PRETRAINING_RUNS),
}
IMAGE_SETS = tuple(_MAKERS)
