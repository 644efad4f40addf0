"""Small files in the formats that captions are published in, and small training data."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import matching_world
import numpy as np
import pytest
import toy_world as toy

from vlrun import BuildReport, Dataset, DatasetConfig, Example
from vlrun.data.annotations import AnnotationFile
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.config import CocoRetrievalConfig, Flickr30kConfig, RetrievalConfig
from vlrun_retrieval.dataset import Caption
from vlrun_retrieval.hard_negatives import HardNegatives, draw_candidates
from vlrun_retrieval.mining import MiningPlan
from vlrun_retrieval.plugin import vlrun_datasets
from vlrun_retrieval.task import RetrievalTask

Build = Callable[[str, str, Path], BuildReport]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """``build(dataset, source, path)``: as `runner data build` does it, into the folder "out"."""

    def run(dataset: str, source: str, path: Path) -> BuildReport:
        entry = next(entry for entry in vlrun_datasets() if entry.name == dataset)
        builder = next(builder for builder in entry.builders if builder.source == source)
        return builder.build(path, tmp_path / "out")

    return run


@pytest.fixture
def records(tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """``records(split)``: what was built."""
    return lambda split: list(AnnotationFile(tmp_path / "out" / f"{split}.jsonl"))


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., DatasetConfig]:
    models = {"coco-retrieval": CocoRetrievalConfig, "flickr30k": Flickr30kConfig}

    def make(name: str = "flickr30k", **options: Any) -> DatasetConfig:
        paths = {"annotations": tmp_path / "annotations", "features": tmp_path / "store"}
        return models[name](**{"name": name, "evaluate": ["test"], **paths, **options})

    return make


def karpathy_image(split: str, number: int, texts: Sequence[str], folder: str = "val2014") -> dict[str, Any]:
    """An entry of dataset_coco.json; imgid and cocoid differ, as they do there."""
    imgid = number % 7
    sentences = [
        {"tokens": text.lower().split(), "raw": text, "imgid": imgid, "sentid": number * 10 + place}
        for place, text in enumerate(texts)
    ]
    return {
        "filepath": folder,
        "filename": f"COCO_{folder}_{number:012d}.jpg",
        "cocoid": number,
        "imgid": imgid,
        "split": split,
        "sentids": [sentence["sentid"] for sentence in sentences],
        "sentences": sentences,
    }


class Karpathy:
    """A small dataset_coco.json, to be changed before it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        five = ["A dog.", "Dog outside", " two dogs ", "A brown dog\n", "Äpfel"]
        self.images = [
            karpathy_image("test", 42, five),
            karpathy_image("restval", 58350, five),
            karpathy_image("train", 9, five[:4], "train2014"),
            karpathy_image("val", 73, [*five, "One more."]),
        ]
        self.content: dict[str, Any] = {"dataset": "coco", "images": self.images}

    def write(self) -> Path:
        self.path.write_text(json.dumps(self.content))
        return self.path


@pytest.fixture
def karpathy(tmp_path: Path) -> Karpathy:
    return Karpathy(tmp_path / "dataset_coco.json")


class Rosita:
    """A small folder of ROSITA's, to be changed before it is written: two images of three captions in each split."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, list[dict[str, Any]]] = {}
        for split, numbers in {"train": (9, 8), "test": (42, 7), "testall": (42, 7)}.items():
            files = [f"COCO_val2014_{number:012d}.jpg" for number in numbers for _ in range(3)]
            self.rows[split] = [
                {"text_id": f"{index}", "text": f"Caption {index}.", "img_src": "coco", "img_file": name}
                for index, name in enumerate(files)
            ]
        self.maps: dict[str, list[dict[str, Any]]] = {
            split: self.map_of([row["img_file"] for row in rows]) for split, rows in self.rows.items()
        }

    @staticmethod
    def map_of(files: Sequence[str]) -> list[dict[str, Any]]:
        images = list(dict.fromkeys(files))
        return [
            {name: number for number, name in enumerate(images)},
            {str(number): name for number, name in enumerate(images)},
            {str(row): images.index(name) for row, name in enumerate(files)},
            {str(number): files.index(name) + 1 for number, name in enumerate(images)},
        ]

    def write(self, with_map: bool = True) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "itr_coco_annotations.json").write_text(json.dumps(self.rows))
        if with_map:
            (self.folder / "img_text_map.json").write_text(json.dumps(self.maps))
        return self.folder


@pytest.fixture
def rosita(tmp_path: Path) -> Rosita:
    return Rosita(tmp_path / "annotations/itr-coco")


class CaptionList(Dataset[Caption]):
    """Captions held in a list: "image #position" of so many images, 1 + number % 3 captions each."""

    def __init__(self, images: int) -> None:
        self.split = "train"
        self.protocol = {}
        self.examples = [
            Example(f"{image}#{position}", f"{image} #{position}", (f"{image}",), Caption(position))
            for image in range(images)
            for position in range(1 + image % 3)
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example[Caption]:
        return self.examples[index]


@pytest.fixture
def captions() -> CaptionList:
    return CaptionList(9)


class Miner:
    """Keeps the first candidates of each anchor, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def mine(
        self, pool: CandidatePool, epoch: int, candidates: int, keep: int, images_of_texts: bool = True
    ) -> HardNegatives:
        self.asked.append((epoch, candidates, keep))
        images = [
            draw_candidates(pool, 0, epoch, "image", row, candidates)[:keep] for row in range(len(pool.image_ids))
        ]
        kept = keep if images_of_texts else 0
        texts = [draw_candidates(pool, 0, epoch, "text", row, candidates)[:kept] for row in range(len(pool.texts))]
        return HardNegatives(np.array(images, np.int32), pool.owner[np.array(texts)].astype(np.int32))


@pytest.fixture
def miner(monkeypatch: pytest.MonkeyPatch) -> Miner:
    """Stands for the run that a task mines with."""

    def mine(task: Any, run: Miner, pool: CandidatePool, plan: MiningPlan) -> HardNegatives:
        return run.mine(pool, plan.epoch, plan.candidates, plan.keep, plan.images_of_texts)

    monkeypatch.setattr("vlrun_retrieval.task.negatives_of_epoch", mine)
    return Miner()


@pytest.fixture
def make_task() -> Callable[..., RetrievalTask]:
    def make(loss: str = "triple", negatives: str = "random", **options: Any) -> RetrievalTask:
        dataset = {"name": "flickr30k", "annotations": "annotations", "features": "features", "evaluate": ["val"]}
        given = {"name": "retrieval", "dataset": dataset, "loss": loss, "negatives": {"name": negatives, **options}}
        return RetrievalTask(RetrievalConfig.model_validate(given))

    return make


@pytest.fixture(scope="session")
def caption_plugins() -> Plugins:
    core = [point for point in entry_points(group="vlrun") if point.name == "core"]
    return create_plugins([*core, EntryPoint("captions", "matching_world", "vlrun")])


@pytest.fixture
def caption_world(tmp_path: Path) -> Path:
    toy.write_toy_store(tmp_path / "data" / "toys.lmdb")
    for split in toy.SIZES:
        (tmp_path / "data" / f"{split}.jsonl").touch()
    (tmp_path / "captions.yaml").write_text(matching_world.EXPERIMENT)
    return tmp_path
