"""Which images there are, what they are called and which split they belong to.

No image is in two splits, whatever the dataset, so joint training cannot leak. Every image set has ids of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
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
DETECTOR = "detector"
IMAGE_SETS = (COCO, VQA, GQA, NLVR2, RETRIEVAL, FLICKR, PRETRAINING, DETECTOR)

CAST = {"testA": "figures", "testB": "shapes"}  # as RefCOCO's: testA shows people, testB everything else
SPLIT_SIZES = {"train": 900, "val": 60, "testA": 80, "testB": 80}
_FIRST_ID, _ID_STEP = 1009, 37
_DETECTOR_SIZES = {"train": (800, 2_000_000_011), "val": (80, 2_100_000_011)}  # split -> images, first id


@dataclass(frozen=True)
class _Run:
    """Images of one split with evenly spaced ids, each of a sparse scene.

    Attributes:
        part: name of their feature file.
        stem: pattern of their names.
    """

    split: str
    size: int
    first_id: int
    part: str
    stem: str = "COCO_{part}_{number:012d}"

    def images(self) -> list[Image]:
        ids = range(self.first_id, self.first_id + self.size * _ID_STEP, _ID_STEP)
        stems = (self.stem.format(part=self.part, number=number) for number in ids)
        return [
            Image(number, self.split, stem, self.part, make_sparse_scene)
            for number, stem in zip(ids, stems, strict=True)
        ]


_RUNS: Mapping[str, tuple[_Run, ...]] = {
    VQA: (  # minival is a part of val, test-dev of test; the rest of them is called nominival and test
        _Run("train", 1400, 100_003, "train2014"),
        _Run("nominival", 100, 200_003, "val2014"),
        _Run("minival", 150, 220_009, "val2014"),
        _Run("test-dev", 40, 300_007, "test2015"),
        _Run("test", 40, 320_009, "test2015"),
    ),
    GQA: (  # images of Visual Genome are called by number, those of the test splits have an n before it
        _Run("train", 1400, 2_300_017, "vg_gqa", "{number}"),
        _Run("val", 100, 2_400_011, "vg_gqa", "{number}"),
        _Run("testdev", 150, 400_009, "gqa_testdev", "n{number}"),
        _Run("test", 40, 450_001, "gqa_test", "n{number}"),
    ),
    RETRIEVAL: (  # Karpathy's splits of COCO: retrieval trains on restval too, and all but train is of val2014
        _Run("train", 560, 500_009, "train2014"),
        _Run("restval", 140, 530_017, "val2014"),
        _Run("val", 60, 540_011, "val2014"),
        _Run("test", 100, 550_007, "val2014"),
    ),
    FLICKR: (  # numbers alone, longer than those of Visual Genome
        _Run("train", 700, 1_000_000_007, "flickr30k", "{number}"),
        _Run("val", 60, 1_100_000_009, "flickr30k", "{number}"),
        _Run("test", 100, 1_200_000_041, "flickr30k", "{number}"),
    ),
    PRETRAINING: (  # COCO's own splits; the real ones hold all images of COCO, these none that anything is tested on
        _Run("train", 1500, 600_011, "train2014"),
        _Run("val", 60, 660_001, "val2014"),
    ),
}


def images(image_set: str = COCO) -> list[Image]:
    """Lists all images of a set, split after split."""
    if image_set == COCO:
        return _crowded_images()
    if image_set == NLVR2:
        return pair_images()
    if image_set == DETECTOR:
        return _detector_images()
    return [image for run in _RUNS[image_set] for image in run.images()]


def _crowded_images() -> list[Image]:
    """The images of RefCOCO, whose scenes hold many things."""
    crowded: list[Image] = []
    for split, size in SPLIT_SIZES.items():
        for position in range(size):
            cast = CAST.get(split, ("figures", "shapes")[position % 2])
            number = _FIRST_ID + _ID_STEP * len(crowded)
            stem = f"COCO_train2014_{number:012d}"
            crowded.append(Image(number, split, stem, "train2014", partial(make_scene, cast=cast)))
    return crowded


def _detector_images() -> list[Image]:
    """What the detector learns from and is tried on: by turns crowded and sparse, and of no dataset."""
    paints = (partial(make_scene, cast="figures"), make_sparse_scene, partial(make_scene, cast="shapes"))
    return [
        Image(first_id + _ID_STEP * position, split, f"detector_{split}_{position}", split, paints[position % 3])
        for split, (size, first_id) in _DETECTOR_SIZES.items()
        for position in range(size)
    ]
