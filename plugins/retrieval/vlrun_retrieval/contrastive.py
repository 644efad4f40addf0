"""Retrieval as CLIP is trained: which image of a batch is a text about, and which text of it is an image's?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlrun import Backbone, BackboneOutput, Batch, ConfigError, Encoding, Example, Pair, RegionBatch, TrainingStep
from vlrun.blocks.heads import TwoTowerHead
from vlrun_retrieval.config import RetrievalConfig
from vlrun_retrieval.dataset import Caption
from vlrun_retrieval.head import PairMatcher
from vlrun_retrieval.task import RetrievalTask


def make_task(config: RetrievalConfig) -> RetrievalTask:
    """The task of an experiment, by its loss."""
    return ContrastiveRetrieval(config) if config.loss == "contrastive" else RetrievalTask(config)


class TowerOutputs(NamedTuple):
    """Of P pairs: logits (P, 2), and the vectors of text and image, (P, H) each."""

    logits: Tensor
    text: Tensor
    image: Tensor


class TowerMatcher(PairMatcher):
    """The matching head of two towers, which also shows their vectors."""

    def forward(self, output: BackboneOutput) -> TowerOutputs:  # type: ignore[override]
        """States of P pairs, with vectors (P, H) -> their logits (P, 2) and vectors."""
        assert output.vectors is not None, "only for backbones of two towers"
        return TowerOutputs(self.logits(output.pooled), *output.vectors)


class ContrastiveRetrieval(RetrievalTask):
    """Trains with one pair per caption; what it is told from are the other pairs of the global batch.

    The loss is that of Radford et al. 2021: the mean of two cross entropies, of images for each text and of texts for
    each image. Deviation: other captions of the same image are left out of both, as they are right answers, too; among
    the authors' 32,768 pairs of a batch there are hardly any.
    """

    def __init__(self, config: RetrievalConfig) -> None:
        super().__init__(config)
        self.in_batch = False

    def build_head(self, backbone: Backbone) -> TowerMatcher:
        """The backbone's own matching head.

        Raises:
            ConfigError: the backbone has no two towers.
        """
        head = backbone.matching_head()
        if not (backbone.two_towers and isinstance(head, TwoTowerHead)):
            raise ConfigError(
                f"task '{self.config.display_name}': loss 'contrastive' compares vectors of texts and images, and the "
                "backbone looks at pairs; use loss=triple, or a backbone of two towers such as clip"
            )
        return TowerMatcher(head)

    def pairs(self, example: Example[Caption], rng: np.random.Generator) -> list[Pair]:
        """The example's own pair."""
        return [Pair(example.text, example.image_ids[0])]

    def collate(
        self, examples: Sequence[Example[Caption]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        """images: (B,) int64, a number for each image, the same in all batches."""
        digests = (hashlib.blake2b(example.image_ids[0].encode(), digest_size=8).digest() for example in examples)
        return {"images": torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests])}

    def loss(self, outputs: TowerOutputs, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        """None of single pairs."""
        return {}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """None of single pairs."""
        return {}

    def shared_rows(self, outputs: TowerOutputs, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Vectors of both towers, and which image each is of."""
        return {"text": outputs.text, "image": outputs.image, "images": targets["images"]}

    def batch_loss(self, rows: Mapping[str, Tensor], step: TrainingStep) -> dict[str, Tensor]:
        """``contrast``: the mean of both cross entropies."""
        head = step.head.layer
        scores = head.similarity(rows["text"], rows["image"])  # (images, texts)
        own = torch.arange(len(scores), device=scores.device)
        same = rows["images"][:, None] == rows["images"]
        same[own, own] = False
        scores = scores.masked_fill(same, torch.finfo(scores.dtype).min)
        return {"contrast": (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2}

    def decode(self, outputs: TowerOutputs, batch: Batch) -> Tensor:
        """The logits."""
        return outputs.logits
