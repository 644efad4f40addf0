"""Which images there are, what they are called and which split they belong to.

No image is in two splits, whatever the dataset, so joint training cannot leak. Every image set has ids of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from vlrun_demo.images import Image
from vlrun_demo.scene import Scene, make_scene, make_sparse_scene

COCO = "coco"
VQA = "vqa"
GQA = "gqa"
RETRIEVAL = "retrieval"
FLICKR = "flickr"
PRETRAINING = "pretraining"
DETECTOR = "detector"

_ID_STEP = 37
_FIGURES = partial(make_scene, cast="figures")
_SHAPES = partial(make_scene, cast="shapes")


@dataclass(frozen=True)
class _Run:
    """Images of one split with evenly spaced numbers.

    Attributes:
        part: name of their feature file.
        id: pattern of their ids.
        paints: what makes their scenes, by turns.
    """

    split: str
    size: int
    first: int
    part: str
    id: str = "COCO_{part}_{number:012d}"
    paints: tuple[Callable[[int], Scene], ...] = (make_sparse_scene,)

    def images(self) -> list[Image]:
        made = []
        for position in range(self.size):
            number = self.first + position * _ID_STEP
            name = self.id.format(part=self.part, number=number, position=position)
            made.append(Image(number, self.split, name, self.part, self.paints[position % len(self.paints)]))
        return made


_RUNS: Mapping[str, tuple[_Run, ...]] = {
    COCO: (  # crowded, and as in RefCOCO: testA shows people, testB everything else
        _Run("train", 900, 1_009, "train2014", paints=(_FIGURES, _SHAPES)),
        _Run("val", 60, 34_309, "train2014", paints=(_FIGURES, _SHAPES)),
        _Run("testA", 80, 36_529, "train2014", paints=(_FIGURES,)),
        _Run("testB", 80, 39_489, "train2014", paints=(_SHAPES,)),
    ),
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
    DETECTOR: (  # what the detector learns from and is tried on: crowded and sparse, and of no dataset
        _Run(
            "train", 800, 2_000_000_011, "train", "detector_{part}_{position}", (_FIGURES, make_sparse_scene, _SHAPES)
        ),
        _Run("val", 80, 2_100_000_011, "val", "detector_{part}_{position}", (_FIGURES, make_sparse_scene, _SHAPES)),
    ),
}
IMAGE_SETS = tuple(_RUNS)


def images(image_set: str = COCO) -> list[Image]:
    """Lists all images of a set, split after split."""
    return [image for run in _RUNS[image_set] for image in run.images()]
