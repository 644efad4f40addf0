"""What a schedule of the learning rate is given (no torch here)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], float]
"""Learning rate of the optimiser step with that index, from 0: a pure function, as a resumed run keeps no state."""


@dataclass(frozen=True)
class TrainingLength:
    """How long a training is, and how fast at most.

    Attributes:
        learning_rate: ``train.learning_rate``, the peak.
        steps_per_epoch: optimiser steps of an epoch of all tasks together.
        epochs: ``train.epochs``.
    """

    learning_rate: float
    steps_per_epoch: int
    epochs: int

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.steps_per_epoch * self.epochs
