"""Tasks that rank images and texts by how well they match, as retrieval and zero-shot retrieval share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vlrun.blocks.heads import PairMatcher
from vlrun.config.base import MatchingConfig
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.examples import Prediction
from vlrun.interfaces.metric import Metric
from vlrun.interfaces.task import Task
from vlrun.interfaces.tensors import Batch
from vlrun.retrieval_metric import RetrievalMetric

MATCH = 1
"""The class of the matching head that means that text and image match."""


class MatchingTask(Task[Any]):
    """Ranks every image of a split for every text and the reverse, by a score of each pair.

    The core scores the pool of a split and ranks it; a plugin says how matching is trained, if at all. An example is
    one text with its image.

    Attributes:
        sample_size: how many texts ``check_sample`` gets before a pool is scored; 0: it is not called.
    """

    sample_size: int = 0

    def __init__(self, config: MatchingConfig) -> None:
        self.config: Any = config

    def build_head(self, backbone: Backbone) -> PairMatcher:
        return PairMatcher(backbone.matching_head())

    def pair_scores(self, logits: Tensor) -> Tensor:
        """Logits (P, 2) -> scores (P,), larger for a better match.

        The log-odds are monotone in the softmax probability of a match, by which the papers rank, but two of them are
        never both rounded to 1.
        """
        return logits[:, MATCH] - logits[:, 1 - MATCH] if self.config.score == "log-odds" else logits[:, MATCH]

    def check_sample(self, matched: NDArray[np.float32], mismatched: NDArray[np.float32]) -> None:
        """Looks at the scores (n,) of some texts with their own image, and with another one, before all are scored."""

    def metrics(self) -> list[Metric]:
        return [RetrievalMetric(self.config.protocols, self.config.ties, self.protocol())]

    def protocol(self) -> Mapping[str, str]:
        """What every score says about how pairs were scored."""
        return {"matching score": self.config.score}

    def predict(self, outputs: Tensor, batch: Batch) -> list[Prediction]:
        """The score of each pair of the batch, for those who want them one by one; pools do not come here."""
        scores: Sequence[float] = self.pair_scores(outputs).tolist()
        return [Prediction(name, {"score": score}) for name, score in zip(batch.ids, scores, strict=True)]
