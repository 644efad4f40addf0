"""A toy world of captions: images with one to three captions of several lengths, and a task that matches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from toy_world import NUM_IMAGES, WIDTH

from vlrun import (
    Backbone,
    BackboneConfig,
    BackboneOutput,
    Dataset,
    DatasetConfig,
    Encoding,
    Entry,
    Example,
    Pair,
    RegionBatch,
    RunView,
    hookimpl,
)
from vlrun.blocks.heads import TwoTowerHead
from vlrun.config.experiment import Experiment, load_experiment
from vlrun.plugins.manager import Plugins
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.config import MatchingConfig
from vlrun_retrieval.hard_negatives import HardNegatives
from vlrun_retrieval.matching import MatchingTask
from vlrun_retrieval.mining import MiningPlan, negatives_of_epoch


class Captions(Dataset[int]):
    """Image i has 1 + i % 3 captions; caption j of it has 1 + (i + j) % 4 words."""

    def __init__(self, config: DatasetConfig, split: str) -> None:
        self.split, self.protocol = split, {"annotations": split}
        first = {"train": 0, "val": 1, "test": 2}[split]
        self.examples = [
            Example(
                f"{split}-{i}-{j}", " ".join(f"{w + 2 * i + 3 * j}" for w in range(1 + (i + j) % 4)), (f"img{i}",), j
            )
            for i in range(first, NUM_IMAGES)
            for j in range(1 + i % 3)
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example[int]:
        return self.examples[index]


class CaptionConfig(BackboneConfig):
    poison: str | None = None


class CaptionBackbone(Backbone):
    """Mixes the mean of the words with the mean of the regions; padding has to be masked."""

    hidden_size = 8
    vocabulary_hash = "captions"

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.look = nn.Linear(WIDTH + 4, 8)
        self.mix = nn.Linear(16, 8)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 2)
        self.poison = config.poison

    def pair_encoder(self, max_text_tokens: int) -> CaptionEncoder:
        return CaptionEncoder(self.poison)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        words = self.words(encoding.token_ids)
        looks = torch.tanh(self.look(torch.cat([encoding.region_features.float(), encoding.boxes], -1)))
        both = [_mean(words, encoding.text_mask), _mean(looks, encoding.region_mask)]
        pooled = torch.tanh(self.mix(self.dropout(torch.cat(both, -1))))
        return BackboneOutput(words, looks, pooled, encoding.text_mask, encoding.region_mask)

    def matching_head(self) -> nn.Module:
        return self.head


class TowerBackbone(CaptionBackbone):
    """The same words and regions in two towers."""

    two_towers = True

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__(config)
        self.head = TwoTowerHead()  # type: ignore[assignment]

    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        return {"vector": TwoTowerHead.vectors(_mean(self.words(encoding.token_ids), encoding.text_mask))}

    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        looks = torch.tanh(self.look(torch.cat([encoding.region_features.float(), encoding.boxes], -1)))
        return {"vector": TwoTowerHead.vectors(_mean(looks, encoding.region_mask))}

    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        return TwoTowerHead.pooled(text["vector"], regions["vector"])

    def similarity(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        return self.head.similarity(text["vector"], regions["vector"])  # type: ignore[operator]

    def forward(self, encoding: Encoding) -> BackboneOutput:
        text, regions = self.text_part(encoding), self.region_part(encoding)
        pooled = self.pooled_output(text, regions)
        nothing, vectors = pooled[:, :0, None].expand(-1, -1, 8), (text["vector"], regions["vector"])
        masks = encoding.text_mask[:, :0], encoding.region_mask[:, :0]
        return BackboneOutput(nothing, nothing, pooled, *masks, vectors)


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


class CaptionEncoder:
    def __init__(self, poison: str | None) -> None:
        self.poison = poison

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        tokens = [[int(word) % 49 + 1 if word.isdigit() else 0 for word in pair.text.split()] for pair in pairs]
        longest = max(map(len, tokens))
        features = torch.from_numpy(regions.features).clone()
        features[[pair.image_id == self.poison for pair in pairs]] *= float("nan")
        return Encoding(
            token_ids=torch.tensor([row + [0] * (longest - len(row)) for row in tokens]),
            text_mask=torch.tensor([[place < len(row) for place in range(longest)] for row in tokens]),
            region_features=features,
            boxes=torch.from_numpy(regions.boxes) / 100,
            region_mask=torch.from_numpy(regions.mask),
        )


class ToyMatchingConfig(MatchingConfig):
    needs_head: bool = False
    mines: bool = False


class ToyMatching(MatchingTask):
    """Matched against a negative image: the hardest one mined, or the next."""

    sample_size = 4

    def __init__(self, config: ToyMatchingConfig) -> None:
        super().__init__(config)
        self.requires_matching_head = config.needs_head
        self.samples: list[tuple[Any, Any]] = []
        self.pool: CandidatePool | None = None
        self.negatives: HardNegatives | None = None
        self.mined: list[tuple[int, HardNegatives]] = []

    def check_sample(self, matched: NDArray[np.float32], mismatched: NDArray[np.float32]) -> None:
        self.samples.append((matched, mismatched))

    def start_training(self, dataset: Dataset[Any], seed: int) -> None:
        self.pool = CandidatePool.of(dataset)

    def start_epoch(self, epoch: int, run: RunView) -> None:
        if self.config.mines and self.pool is not None:
            self.negatives = negatives_of_epoch(self, run, self.pool, MiningPlan(epoch, candidates=6, keep=2))
            self.mined.append((epoch, self.negatives))

    def pairs(self, example: Example[Any], rng: np.random.Generator) -> list[Pair]:
        own = int(example.image_ids[0].removeprefix("img"))
        other = (own + 1) % NUM_IMAGES
        if self.negatives is not None and self.pool is not None:
            row = self.pool.text_ids.index(example.id)
            other = int(self.pool.image_ids[rng.choice(self.negatives.images_of_texts[row])].removeprefix("img"))
        return [Pair(example.text, f"img{own}"), Pair(example.text, f"img{other}")]

    def collate(
        self, examples: Sequence[Example[Any]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        return {"label": torch.tensor([1, 0] * len(examples))}

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"matching": F.cross_entropy(outputs, targets["label"], reduction="sum")}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"matching": torch.tensor(len(targets["label"]))}


@hookimpl
def vlrun_backbones() -> list[Entry]:
    return [
        Entry(
            name="captioned",
            summary="",
            config="matching_world:CaptionConfig",
            factory="matching_world:CaptionBackbone",
        ),
        Entry(
            name="towers",
            summary="",
            config="matching_world:CaptionConfig",
            factory="matching_world:TowerBackbone",
        ),
    ]


@hookimpl
def vlrun_tasks() -> list[Entry]:
    return [
        Entry(
            name="matching",
            summary="",
            config="matching_world:ToyMatchingConfig",
            factory="matching_world:ToyMatching",
            target="caption",
        )
    ]


@hookimpl
def vlrun_datasets() -> list[Entry]:
    return [
        Entry(
            name="captions",
            summary="",
            config="vlrun:DatasetConfig",
            factory="matching_world:Captions",
            target="caption",
        )
    ]


EXPERIMENT = """\
seed: 5
backbone: {name: captioned}
tasks:
  - name: matching
    pairs_per_batch: 5
    dataset: {name: captions, annotations: ., features: toys.lmdb, evaluate: [val, test]}
train:
  epochs: 2
  batch_size: 4
  learning_rate: 1e-2
  log_every: 1
  workers: 0
reporters: [{name: jsonl}]
"""


def brute_force(backbone: Backbone, task: MatchingTask, reader: Any, dataset: Dataset[Any]) -> NDArray[np.float32]:
    """Every pair through ``forward``, one at a time: (images, texts)."""
    pool, encode = CandidatePool.of(dataset), backbone.pair_encoder(20)
    backbone.eval()
    head = task.build_head(backbone)
    scores = np.empty((len(pool.image_ids), len(pool.texts)), np.float32)
    with torch.inference_mode():
        for row, image_id in enumerate(pool.image_ids):
            for column, text in enumerate(pool.texts):
                output = backbone(encode([Pair(text, image_id)], reader([image_id])))
                scores[row, column] = task.pair_scores(head(output))[0]
    return scores


def experiment(world: Path, plugins: Plugins, *overrides: str, runs_root: str = "runs") -> Experiment:
    roots = [f"data_root={world / 'data'}", f"runs_root={world / runs_root}"]
    return load_experiment(world / "captions.yaml", [*roots, *overrides], plugins=plugins)
