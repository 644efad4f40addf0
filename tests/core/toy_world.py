"""A toy world for tests of the engine: an in-memory dataset, a task with random negatives, a backbone with dropout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlrun import (
    Backbone,
    BackboneConfig,
    BackboneOutput,
    Batch,
    Dataset,
    DatasetConfig,
    Encoding,
    Entry,
    Example,
    Metric,
    Pair,
    Prediction,
    RegionBatch,
    RegionFeatures,
    Score,
    Task,
    TaskConfig,
    Units,
    hookimpl,
)
from vlrun.features.writer import write_store

WIDTH = 6
NUM_IMAGES = 7
SIZES = {"train": 23, "val": 13, "test": 11}  # primes: no world size divides them


def image_features(index: int) -> RegionFeatures:
    rng = np.random.default_rng(index)
    corner = rng.uniform(0, 50, (3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (3, 2))], axis=1).astype(np.float32)
    return RegionFeatures(f"img{index}", rng.normal(size=(3, WIDTH)).astype(np.float16), boxes, 100, 100)


def write_toy_store(path: Path) -> None:
    write_store(path, [image_features(index) for index in range(NUM_IMAGES)])


class ToyDataset(Dataset[int]):
    def __init__(self, config: DatasetConfig, split: str) -> None:
        self.split, self.protocol = split, {"annotations": split}

    def __len__(self) -> int:
        return SIZES[self.split]

    def __getitem__(self, index: int) -> Example[int]:
        return Example(f"{self.split}-{index}", f"text {index}", (f"img{index % NUM_IMAGES}",), index % 2)


class ToyTask(Task[int]):
    """Matches a text with its image and with a randomly drawn one."""

    @classmethod
    def from_config(cls, config: TaskConfig) -> ToyTask:
        return cls()

    def pairs(self, example: Example[int], rng: np.random.Generator) -> list[Pair]:
        negative = f"img{rng.integers(NUM_IMAGES)}"
        return [Pair(example.text, example.image_ids[0]), Pair(example.text, negative)]

    def collate(
        self, examples: Sequence[Example[int]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        return {"label": torch.tensor([example.target or 0 for example in examples])}

    def build_head(self, backbone: Backbone) -> nn.Module:
        return ToyHead(backbone.hidden_size)

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weight = targets["label"] + 1.0  # unequal items: means of means would differ from the global mean
        losses = F.cross_entropy(outputs, targets["label"], reduction="none")
        return {"class": (losses * weight).sum(), "size": (outputs.square().mean(1) * (targets["label"] == 1)).sum()}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"class": (targets["label"] + 1.0).sum(), "size": (targets["label"] == 1).sum()}

    def predict(self, outputs: Tensor, batch: Batch) -> list[Prediction]:
        return [Prediction(i, {"answer": int(row.argmax())}) for i, row in zip(batch.ids, outputs, strict=True)]

    def metrics(self) -> list[Metric]:
        return [Accuracy()]


class ToyHead(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * hidden_size, 2)

    def forward(self, output: BackboneOutput) -> Tensor:
        return self.linear(output.pooled.unflatten(0, (-1, 2)).flatten(1))


class Accuracy(Metric):
    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> list[Score]:
        targets = {example.id: example.target for example in dataset}
        right = [prediction.fields["answer"] == targets[prediction.id] for prediction in predictions]
        hits = 100 * np.array(right, float)
        return [Score("accuracy", float(hits.mean()), count=len(right), primary=True, units=Units(hits))]


class ToyConfig(BackboneConfig):
    dropout: float = 0.2
    poison: int | None = None


class ToyBackbone(Backbone):
    hidden_size = 5
    vocabulary_hash = "toy"
    optional_weights = ("itm",)

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(WIDTH + 4, 5)
        self.dropout = nn.Dropout(config.dropout)
        self.unused = nn.Linear(3, 3)
        with torch.random.fork_rng(devices=[]):
            self.itm = nn.Linear(5, 2)

    def pair_encoder(self, max_text_tokens: int) -> ToyEncoder:
        return ToyEncoder(self.config.poison)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        features = torch.cat([encoding.region_features.to(self.project.weight.dtype), encoding.boxes], -1)
        regions = self.dropout(torch.tanh(self.project(features)))
        scale = encoding.token_ids.to(regions.dtype).mean(1, keepdim=True)
        return BackboneOutput(
            regions[:, :1], regions, regions.mean(1) * scale, encoding.text_mask, encoding.region_mask
        )

    def matching_head(self) -> nn.Module:
        return self.itm


class ToyEncoder:
    def __init__(self, poison: int | None) -> None:
        self.poison = poison

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        numbers = [int(pair.text.split()[1]) for pair in pairs]
        features = torch.from_numpy(regions.features).clone()
        if self.poison is not None:
            features[[number == self.poison for number in numbers]] = float("nan")
        return Encoding(
            token_ids=torch.tensor([[1 + number % 3] for number in numbers]),
            text_mask=torch.ones(len(pairs), 1, dtype=torch.bool),
            region_features=features,
            boxes=torch.from_numpy(regions.boxes) / 100,
            region_mask=torch.from_numpy(regions.mask),
        )


@hookimpl
def vlrun_backbones() -> list[Entry]:
    return [
        Entry(name=name, summary="", config="toy_world:ToyConfig", factory="toy_world:ToyBackbone")
        for name in ("toy", "twin")
    ]


@hookimpl
def vlrun_tasks() -> list[Entry]:
    return [
        Entry(
            name="match", summary="", config="vlrun:TaskConfig", factory="toy_world:ToyTask.from_config", target="class"
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    return [
        Entry(name="toys", summary="", config="vlrun:DatasetConfig", factory="toy_world:ToyDataset", target="class")
    ]


EXPERIMENT = """\
seed: 5
backbone: {name: toy}
tasks:
  - name: match
    dataset: {name: toys, annotations: ., features: toys.lmdb, evaluate: [val, test]}
train:
  epochs: 3
  batch_size: 6
  learning_rate: 1e-2
  log_every: 1
  workers: 0
reporters: [{name: jsonl}]
built_in_reporters: false
published:
  source: nowhere
  results: [{task: match, split: val, name: accuracy, value: 12.5}]
"""
