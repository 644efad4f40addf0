"""What training shows of itself: to schedules its length, to tasks and callbacks its steps (no torch here)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vlrun.interfaces.backbone import Backbone
    from vlrun.interfaces.tensors import Encoding

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


class TrainingStep(Protocol):
    """One optimiser step, which all processes of a run take together."""

    @property
    def position(self) -> int:
        """Number among all steps of the run, from 0."""
        ...

    @property
    def epoch(self) -> int:
        """Epoch of all tasks together, from 0."""
        ...

    @property
    def task(self) -> str:
        """What the experiment calls the task that the step trains."""
        ...

    @property
    def learning_rate(self) -> float:
        """That of this step, before the factors of groups."""
        ...

    @property
    def model(self) -> nn.Module:
        """All that trains; names of parameters begin with ``backbone.`` or ``heads.<task>.``."""
        ...

    @property
    def backbone(self) -> Backbone:
        """The backbone of all tasks."""
        ...

    @property
    def head(self) -> nn.Module:
        """What the task's ``build_head`` returned. Its buffers are in checkpoints: a queue belongs there."""
        ...

    def report(self, name: str, total: Tensor | float, count: Tensor | float = 1.0) -> None:
        """Reports a number beside the losses of the step, such as an accuracy: ``total`` over ``count`` items.

        What is reported under one name is added up over forward passes and processes, both parts of it, before it is
        divided; so what every process knows alike may be reported by each. Nothing waits for the device here.

        Args:
            total: the sum over the items, a number or a scalar tensor ().
            count: how many items; likewise.
        """
        ...


class TrainingPass(TrainingStep, Protocol):
    """One forward pass of a step, as ``Task.training_outputs`` makes it."""

    @property
    def companions(self) -> Mapping[str, nn.Module]:
        """What the task's ``companions`` returned: on the device, in evaluation mode, without gradients."""
        ...

    def outputs(self, encoding: Encoding) -> Any:
        """What the head gives for P pairs in training, in float32 or wider; each call has a dropout of its own."""
        ...

    def ask(self, network: nn.Module, encoding: Encoding) -> Any:
        """What another network gives for P pairs, in float32 or wider and without gradients."""
        ...
