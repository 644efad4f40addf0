"""Retrieval as ROSITA and LXMERT-S train it: own pairs match, pairs with wrong captions and images do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlrun import DataError, Dataset, Encoding, Example, Pair, RegionBatch, RunView
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.config import RetrievalConfig
from vlrun_retrieval.dataset import Caption
from vlrun_retrieval.hard_negatives import read_negatives
from vlrun_retrieval.matching import MatchingTask
from vlrun_retrieval.mining import MiningPlan, negatives_of_epoch
from vlrun_retrieval.negatives import BatchNegatives, CaptionTable, HardTables, Negatives, RandomNegatives

PAIRS_PER_EXAMPLE = {"triple": 3, "four-way": 4}  # contrastive: its own alone
"""Of which the first is the example's own."""


class RetrievalTask(MatchingTask):
    """Trains with several pairs per caption, in one forward; how a split is scored and ranked is ``MatchingTask``'s.

    Attributes:
        hard: None while there are no hard negatives: before the first mining, or where the experiment wants none.
    """

    def __init__(self, config: RetrievalConfig) -> None:
        super().__init__(config)
        self.config: RetrievalConfig = config
        self.in_batch = config.negatives.name == "in-batch"
        self.hard: HardTables | None = None
        self._random: RandomNegatives | None = None
        self._pool: CandidatePool | None = None
        self._mined_in: int | None = None

    @property
    def random(self) -> RandomNegatives:
        """What draws from all training data."""
        assert self._random is not None, "start_training comes first"
        return self._random

    def __getstate__(self) -> dict[str, Any]:
        """Without the pool: mining needs all ids and texts, loader workers do not."""
        return {**self.__dict__, "_pool": None}

    def start_training(self, dataset: Dataset[Caption], seed: int) -> None:
        """Makes the tables that wrong captions and images are drawn from.

        Raises:
            DataError: there are too few images, or the file of negatives does not fit them.
        """
        pool = CandidatePool.of(dataset)
        self._random = RandomNegatives(CaptionTable(dataset, pool))
        if (file := self.config.negatives.file) is not None:
            negatives = read_negatives(file, pool)
            if self.config.loss == "triple" and not negatives.images_of_texts.shape[1]:
                raise DataError(f"{file}: has no hard images, which the loss 'triple' needs: runner mine-negatives RUN")
            self.hard = HardTables(self.random.table, negatives)
        if self.config.negatives.schedule is not None:
            self._pool = pool

    def start_epoch(self, epoch: int, run: RunView) -> None:
        """Mines where that is due; a resumed run asks for what the epoch before it had, which the run has kept."""
        schedule = self.config.negatives.schedule
        due = schedule.due_epoch(epoch) if schedule else None
        if schedule is None or due == self._mined_in:
            return
        self._mined_in = due
        self.hard = None
        if due is not None:
            assert self._pool is not None, "start_training comes first"
            both = self.config.loss == "triple"  # four-way takes its wrong image at random
            plan = MiningPlan(due, schedule.candidates, schedule.keep, images_of_texts=both)
            self.hard = HardTables(self.random.table, negatives_of_epoch(self, run, self._pool, plan))

    def pairs(self, example: Example[Caption], rng: np.random.Generator) -> list[Pair]:
        """The example's own pair and its negatives, in the order of the loss."""
        return self._pairs(example, self.hard or self.random, rng)

    def pairs_in_batch(
        self, example: Example[Caption], batch: Sequence[Example[Caption]], rng: np.random.Generator
    ) -> list[Pair]:
        """The same with negatives from the batch."""
        return self._pairs(example, BatchNegatives(batch, self.random), rng)

    def _pairs(self, example: Example[Caption], negatives: Negatives, rng: np.random.Generator) -> list[Pair]:
        """Own pair first. triple: wrong caption, wrong image. four-way: random image, hard caption, random caption."""
        text, image = example.text, example.image_ids[0]
        if self.config.loss == "triple":
            caption, other = negatives.caption(example, rng), negatives.image(example, rng)
            return [Pair(text, image), Pair(caption, image), Pair(text, other)]
        other = self.random.image(example, rng)
        captions = (negatives.caption(example, rng), self.random.caption(example, rng))
        return [Pair(text, image), Pair(text, other), *(Pair(caption, image) for caption in captions)]

    def collate(
        self, examples: Sequence[Example[Caption]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        """matches: (P,) int64, 1 for the first pair of each example and 0 for its negatives."""
        matches = torch.zeros(len(examples), PAIRS_PER_EXAMPLE[self.config.loss], dtype=torch.int64)
        matches[:, 0] = 1
        return {"matches": matches.flatten()}

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy of logits (P, 2), class 1 = match.

        triple: ``matched``, which counts twice, ``wrong_caption`` and ``wrong_image``, each a mean over B examples, as
        in ROSITA's code. four-way: ``matching``, twice the mean over 4 B pairs; LXMERT-S's binary cross entropy of both
        columns of a softmax, times 2, is the same, but for its logarithms that stop at -100.
        """
        entropy = F.cross_entropy(outputs, targets["matches"], reduction="none")  # (P,)
        if self.config.loss == "four-way":
            return {"matching": 2 * entropy.sum()}
        own, caption, image = entropy.view(-1, PAIRS_PER_EXAMPLE["triple"]).sum(dim=0)
        return {"matched": 2 * own, "wrong_caption": caption, "wrong_image": image}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """triple: examples for each loss; four-way: pairs."""
        matches = targets["matches"]
        if self.config.loss == "four-way":
            return {"matching": torch.tensor(len(matches))}
        return dict.fromkeys(("matched", "wrong_caption", "wrong_image"), matches.sum())
