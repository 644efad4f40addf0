"""The metric interface: a pure function of all predictions of a split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.examples import Prediction, Score


class Metric(ABC):
    """Scores one split. It sees every prediction of every rank exactly once, so it need not know about ranks."""

    @abstractmethod
    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> list[Score]:
        """Compares ``predictions`` with the targets of ``dataset``; each score says what of this metric changes it.

        What the core knows goes into every protocol without this: ``dataset.protocol``, the split, the checkpoint, and
        what the task says of its evaluation.

        Raises:
            DataError: a prediction is missing, unknown, or repeated.
        """
