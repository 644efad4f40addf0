"""The provider of demo data: its images, what is made of them, and under which schedule they are learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrun import DemoProvider
from vlrun_demo.feature_files import write_features
from vlrun_demo.images import Image
from vlrun_demo.picture import write_pictures
from vlrun_demo.scene import KINDS
from vlrun_demo.vocabulary import write_vocabulary
from vlrun_demo.world import IMAGE_SETS, images


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
        write_vocabulary(path)

    def images(self, image_set: str) -> Sequence[Image]:
        return images(image_set)

    def write_features(self, image_set: str, folder: Path) -> None:
        write_features(folder, images(image_set))

    def write_pictures(self, image_set: str, folder: Path) -> None:
        write_pictures(image_set, folder)

    def write_all_pictures(self, image_set: str, folder: Path) -> None:
        write_pictures(image_set, folder, per_split=None)

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
