"""Small expressions, regions and archives for the tests of REC."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlrun import BackboneOutput, Batch, Dataset, Encoding, Example, Referent, RegionBatch
from vlrun_demo.images import Image
from vlrun_demo.world import images
from vlrun_rec.config import RecConfig
from vlrun_rec.demo import files
from vlrun_rec.task import RecTask


class Expressions(Dataset[Referent]):
    """Examples held in a list."""

    def __init__(self, examples: Sequence[Example[Referent]]) -> None:
        self.examples = list(examples)
        self.split = "testA"
        self.protocol = {"annotations": "testA.jsonl", "features": "coco-bua36"}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example[Referent]:
        return self.examples[index]


@pytest.fixture
def make_dataset() -> Callable[..., Expressions]:
    """``make_dataset(boxes xywh, ref_ids)``: examples "0", "1", ... on images of 640 x 480."""

    def make(boxes: Sequence[Sequence[float]], ref_ids: Sequence[int | None] | None = None) -> Expressions:
        names = ref_ids or [None] * len(boxes)
        return Expressions(
            [
                Example(str(index), "the hat", ("image",), Referent(tuple(box), 480, 640, names[index]))  # type: ignore[arg-type]
                for index, box in enumerate(boxes)
            ]
        )

    return make


@pytest.fixture
def make_task() -> Callable[..., RecTask]:
    def make(**options: Any) -> RecTask:
        dataset = {"name": "refcoco", "annotations": "annotations", "features": "features", "evaluate": ["val"]}
        return RecTask(RecConfig(**{"name": "rec", "dataset": dataset, **options}))

    return make


@pytest.fixture
def make_regions() -> Callable[..., RegionBatch]:
    """``make_regions(boxes (P, R, 4), counts (P,), sizes (P, 2))``: features are zeros."""

    def make(boxes: Any, counts: Sequence[int] | None = None, sizes: Any = (480, 640)) -> RegionBatch:
        boxes = np.asarray(boxes, np.float32)
        num_pairs, num_regions = boxes.shape[:2]
        real = np.full(num_pairs, num_regions) if counts is None else np.asarray(counts)
        return RegionBatch(
            image_ids=("image",) * num_pairs,
            features=np.zeros((num_pairs, num_regions, 2), np.float16),
            boxes=boxes,
            mask=np.arange(num_regions) < real[:, None],
            sizes=np.broadcast_to(np.asarray(sizes, np.float32), (num_pairs, 2)).copy(),
        )

    return make


@pytest.fixture
def make_encoding() -> Callable[..., Encoding]:
    """``make_encoding(region mask)``: everything else is zeros."""

    def make(region_mask: Any) -> Encoding:
        mask = torch.as_tensor(region_mask)
        num_pairs, num_regions = mask.shape
        return Encoding(
            token_ids=torch.zeros(num_pairs, 3, dtype=torch.int64),
            text_mask=torch.ones(num_pairs, 3, dtype=torch.bool),
            region_features=torch.zeros(num_pairs, num_regions, 2),
            boxes=torch.zeros(num_pairs, num_regions, 5),
            region_mask=mask,
        )

    return make


@pytest.fixture
def make_batch(make_encoding: Callable[..., Encoding]) -> Callable[..., Batch]:
    """``make_batch(task, dataset, regions, num_regions)``: a collated batch that sees ``num_regions`` regions."""

    def make(task: RecTask, dataset: Expressions, regions: RegionBatch, num_regions: int) -> Batch:
        mask = np.zeros((len(dataset), num_regions), bool)
        kept = min(num_regions, regions.mask.shape[1])
        mask[:, :kept] = regions.mask[:, :kept]
        encoding = make_encoding(mask)
        examples = list(dataset)
        return Batch(tuple(example.id for example in examples), encoding, task.collate(examples, regions, encoding))

    return make


@pytest.fixture
def make_output() -> Callable[..., BackboneOutput]:
    """``make_output(region states (P, R, H), region mask)``."""

    def make(regions: torch.Tensor, region_mask: Any = None) -> BackboneOutput:
        num_pairs, num_regions, hidden_size = regions.shape
        mask = torch.ones(num_pairs, num_regions, dtype=torch.bool) if region_mask is None else region_mask
        return BackboneOutput(
            text=regions.new_zeros(num_pairs, 3, hidden_size),
            regions=regions,
            pooled=regions.new_zeros(num_pairs, hidden_size),
            text_mask=torch.ones(num_pairs, 3, dtype=torch.bool),
            region_mask=mask,
        )

    return make


def reference(ref_id: int, ann_id: int, image_id: int, split: str, *texts: str) -> dict[str, Any]:
    """A reference as in ``refs(...).p``; sentence ids are 10 * ref_id, 10 * ref_id + 1, ..."""
    sentences = [
        {"tokens": text.split(), "raw": text.upper(), "sent_id": 10 * ref_id + number, "sent": text}
        for number, text in enumerate(texts)
    ]
    return {
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "file_name": f"COCO_train2014_{image_id:012d}_{ref_id}.jpg",  # of no image: the suffix must be ignored
        "ann_id": ann_id,
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "sentences": sentences,
        "category_id": 1,
    }


class Archive:
    """A small archive in the official layout, to be changed before it is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.references = [
            reference(0, 501, 9, "train", "the lady with the blue shirt", "blue shirt"),
            reference(1, 502, 25, "val", "giraffe on the left"),
            reference(2, 503, 25, "testA", "small giraffe"),
            reference(3, 501, 9, "testB", "woman"),
        ]
        self.instances: dict[str, Any] = {
            "info": {},
            "licenses": [],
            "images": [
                {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 480, "width": 640, "license": 3},
                {"id": 25, "file_name": "COCO_train2014_000000000025.jpg", "height": 426, "width": 640, "license": 3},
            ],
            "annotations": [
                self.annotation(501, 9, [103.93, 299.99, 134.22, 177.42]),
                self.annotation(502, 25, [385.53, 60.03, 214.97, 297.16]),
                self.annotation(503, 25, [53.01, 356.49, 132.03, 55.19]),
            ],
            "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
        }

    @staticmethod
    def annotation(ann_id: int, image_id: int, box: list[float]) -> dict[str, Any]:
        segmentation = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
        extra = {"area": 1.5, "iscrowd": 0, "segmentation": segmentation}
        return {"id": ann_id, "image_id": image_id, "category_id": 1, "bbox": box, **extra}

    def write(self, refs_file: str = "refs(unc).p") -> Path:
        self.folder.mkdir(exist_ok=True)
        (self.folder / refs_file).write_bytes(pickle.dumps(self.references, protocol=2))
        (self.folder / "instances.json").write_text(json.dumps(self.instances))
        return self.folder


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "refcoco")


@pytest.fixture
def make_reference() -> Callable[..., dict[str, Any]]:
    return reference


@pytest.fixture(scope="session")
def some_images() -> list[Image]:
    """Images of the demo, of all splits."""
    return images()[::10]


@pytest.fixture(scope="session")
def referents() -> Callable[[str], list[files.Referent]]:
    """``referents(dataset)``: what the demo data talk about in all test images and in some of the others."""
    chosen = [image for image in images() if image.split.startswith("test") or image.number % 12 == 0]
    return cache(lambda dataset: list(files.referents_of(dataset, chosen)))
