"""Zero-shot retrieval: pairs are scored as in retrieval, by a matching head that some pre-training has left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vlrun import CheckpointError, ConfigError, Dataset, Encoding, Example, Pair, RegionBatch
from vlrun.blocks.sign_test import is_conclusive, wins_needed
from vlrun_retrieval.matching import MATCH, MatchingTask
from vlrun_zero_shot.config import ZeroShotConfig


class ZeroShotTask(MatchingTask):
    """Ranks without training; the run stops where the matching head was not imported, or is no better than chance."""

    requires_matching_head = True

    def __init__(self, config: ZeroShotConfig) -> None:
        super().__init__(config)
        self.sample_size = config.check_pairs

    def start_training(self, dataset: Dataset[Any], seed: int) -> None:
        """Refuses to train.

        Raises:
            ConfigError: always; what was trained is not zero-shot.
        """
        raise self._refusal()

    def pairs(self, example: Example[Any], rng: np.random.Generator) -> list[Pair]:
        """The prompted text with its image."""
        return super().pairs(replace(example, text=self.worded(example.text)), rng)

    def collate(
        self, examples: Sequence[Example[Any]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        """No targets: a text matches its own image, which the ranking knows."""
        return {}

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Refuses, as ``start_training`` does."""
        raise self._refusal()

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Refuses, as ``start_training`` does."""
        raise self._refusal()

    def worded(self, text: str) -> str:
        """The text behind the prompt."""
        return f"{self.config.prompt} {text}" if self.config.prompt else text

    def protocol(self) -> Mapping[str, str]:
        """Also what a match is taken to be, the prompt, and that nothing was trained on the target set."""
        prompt = {"prompt": self.config.prompt} if self.config.prompt else {}
        return {
            **super().protocol(),
            **prompt,
            "match index": f"class {MATCH} of the backbone's matching head",
            "training on the target set": "none in this run",
        }

    def check_sample(self, matched: NDArray[np.float32], mismatched: NDArray[np.float32]) -> None:
        """Texts must match their own image better than another one, clearly more often than not; see ``wins_needed``.

        A tie counts as lost, so that a head that says the same of every pair is not taken for a good one. Of no texts
        nothing is asked.

        Raises:
            CheckpointError: they do not; says how many do, what class 1 is taken to mean, and what to do.
        """
        texts = len(matched)
        won, lost = int((matched > mismatched).sum()), int((matched < mismatched).sum())
        needed = wins_needed(texts)
        if texts and won < needed:
            looks_inverted = lost >= needed and is_conclusive(texts)
            raise CheckpointError(self._complaint(won, needed, texts, looks_inverted))

    def _complaint(self, won: int, needed: int, texts: int, looks_inverted: bool) -> list[str]:
        where = f"task '{self.config.display_name}'"
        verdict = "which looks like a head that is the wrong way round" if looks_inverted else "no better than chance"
        rule = "a one-sided sign test at 1 %" if is_conclusive(texts) else "a majority; more texts would say more"
        return [
            f"{where}: {won} of {texts} sampled texts ({won / texts:.1%}) match their own image better than another "
            f"one, {verdict}; {needed} are needed ({rule}). No pair beyond these was scored",
            f"{where}: class {MATCH} of the matching head is taken to mean a match. In VOLTA's alignment head and "
            f"BERT's next-sentence head that is class {1 - MATCH}: for weights of that kind swap the two rows of the "
            "head's weight and of its bias, and import them again",
            f"{where}: otherwise, does the matching head come from image-text pre-training, and are vocabulary and "
            "region features those of that pre-training? A weak head can show itself in more texts: raise check_pairs, "
            f"now {self.config.check_pairs}",
        ]

    def _refusal(self) -> ConfigError:
        return ConfigError(
            f"task '{self.config.display_name}' is never trained: set train.epochs=0, or use a task that trains on "
            "captions, such as `name: retrieval`"
        )
