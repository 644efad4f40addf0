"""The provider of demo data: what it has, who writes it, and under which schedule it is learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlrun import DemoProvider, DemoSource
from vlrun_demo.feature_files import write_features
from vlrun_demo.official import write_dataset
from vlrun_demo.picture import write_pictures
from vlrun_demo.vocabulary import write_vocabulary
from vlrun_demo.world import images

_EPOCHS = {  # until most is learned; others: 8
    "refcoco": 12,
    "refcocog": 12,
    "vqav2": 11,
    "gqa": 10,
    "nlvr2": 15,
    "coco-retrieval": 5,
    "flickr30k": 5,
    "coco-captions": 12,
    "lxmert-pretraining": 6,
}
_RATES = {
    "nlvr2": 4e-4,  # at more, some networks never learn to tell two images apart
    "lxmert-pretraining": 1e-3,
    "coco-captions": 1e-3,  # at less, matching has hardly begun when the minutes are over
}  # others: 5e-4


class DemoWorld(DemoProvider):
    """A small world of coloured things."""

    name = "world"
    version = "3"
    datasets: Mapping[str, DemoSource] = MappingProxyType(
        {
            **{name: DemoSource("official", "coco") for name in ("refcoco", "refcoco+", "refcocog")},
            "vqav2": DemoSource("official", "vqa"),
            "gqa": DemoSource("official", "gqa"),
            "nlvr2": DemoSource("official", "nlvr2"),
            "coco-retrieval": DemoSource("karpathy", "retrieval"),
            "flickr30k": DemoSource("karpathy", "flickr"),
            "coco-captions": DemoSource("official", "pretraining"),
            "lxmert-pretraining": DemoSource("lxmert", "pretraining"),
        }
    )
    feature_format = "lxmert-tsv"
    region_feature_size = 128
    num_regions = 12
    detector = "demo-world"
    duration = "one to four minutes of a core, for most; retrieval needs pre-training first, four or five more, once"

    def write_vocabulary(self, path: Path) -> None:
        write_vocabulary(path)

    def write_annotations(self, dataset: str, folder: Path) -> None:
        write_dataset(dataset, folder)

    def write_features(self, image_set: str, folder: Path) -> None:
        write_features(folder, images(image_set))

    def write_pictures(self, image_set: str, folder: Path) -> None:
        write_pictures(image_set, folder)

    def write_all_pictures(self, image_set: str, folder: Path) -> None:
        write_pictures(image_set, folder, per_split=None)

    def overrides(self, datasets: Sequence[str]) -> Mapping[str, Any]:
        """A schedule under which tiny backbones learn this world in some minutes of a core."""
        epochs = max(_EPOCHS.get(dataset, 8) for dataset in datasets)
        return {
            "train.epochs": epochs,
            "train.batch_size": 32,
            "train.micro_batches": 2,  # so that --nproc 2 gives the same numbers
            "train.learning_rate": min(_RATES.get(dataset, 5e-4) for dataset in datasets),
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
