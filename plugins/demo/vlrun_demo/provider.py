"""The provider of demo data: its images, what is made of them, and under which schedule they are learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

from vlrun import DemoImageRequest, DemoProvider, PluginError
from vlrun_demo.feature_files import write_features
from vlrun_demo.images import Image
from vlrun_demo.picture import write_pictures
from vlrun_demo.scene import ATTRIBUTES, BACKGROUNDS, KINDS, arrange
from vlrun_demo.world import IMAGE_SETS, images

VOCABULARY = Path(__file__).with_name("vocabulary.txt")
"""Learned once from texts of all tasks, with ``train_wordpiece``: the same whichever of their plugins are installed."""


class DemoWorld(DemoProvider):
    """A small world of coloured things."""

    name = "world"
    version = "3"
    image_sets = IMAGE_SETS
    feature_format = "lxmert-tsv"
    region_feature_size = 128
    num_regions = 12
    class_names = KINDS
    detector = "demo-world"
    duration = "one to four minutes of a core, for most; retrieval needs pre-training first, four or five more, once"

    def write_vocabulary(self, path: Path) -> None:
        copyfile(VOCABULARY, path)

    def images(self, image_set: str) -> Sequence[Image]:
        return images(image_set)

    def make_images(self, wanted: Sequence[DemoImageRequest]) -> Sequence[Image]:
        return [_made(request) for request in wanted]

    def write_features(self, images: Sequence[Image], folder: Path) -> None:
        write_features(folder, images)

    def write_pictures(self, images: Sequence[Image], folder: Path) -> None:
        write_pictures(images, folder)

    def write_all_pictures(self, images: Sequence[Image], folder: Path) -> None:
        write_pictures(images, folder, per_split=None)

    def overrides(self, epochs: int, learning_rate: float) -> Mapping[str, Any]:
        """A schedule under which tiny backbones learn this world in some minutes of a core."""
        return {
            "train.epochs": epochs,
            "train.batch_size": 32,
            "train.micro_batches": 2,  # so that --nproc 2 gives the same numbers
            "train.learning_rate": learning_rate,
            # BERT's own does not correct its first moments: too large a step for networks that start from nothing
            "train.optimizer": {"name": "adam", "betas": [0.9, 0.98], "eps": 1e-9},
            "train.max_grad_norm": 1.0,
            "train.schedule": {
                "name": "warmup-staircase",
                "warmup_epochs": 1.0,
                "decay_epochs": [round(0.85 * epochs), epochs - 1],
                "decay_factor": 0.1,
            },
            "train.evaluate_every": 2,
            "train.threads": 1,  # so small a model gains little from more, and loses much beside another busy process
        }


def _made(request: DemoImageRequest) -> Image:
    """The image that is asked for; its things are at random places.

    Raises:
        PluginError: things of this world are not what is asked for.
    """
    wanted = [{"kind": name, **attributes} for name, attributes in request.objects]
    for named in wanted:
        if named.keys() != ATTRIBUTES.keys() or any(value not in ATTRIBUTES[name] for name, value in named.items()):
            raise PluginError(f"image {request.id}: demo data 'world' has no {named}; its things have {ATTRIBUTES}")
    if request.background not in BACKGROUNDS:
        raise PluginError(f"image {request.id}: background {request.background} is none of {', '.join(BACKGROUNDS)}")
    things = [tuple(named[name] for name in ATTRIBUTES) for named in wanted]
    paint = partial(arrange, wanted=things, background=request.background)
    return Image(request.number, request.split, request.id, request.part, paint)
