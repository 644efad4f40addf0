"""Callbacks: code of plugins that is called around the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vlrun.interfaces.reporter import EvaluationReport
    from vlrun.interfaces.training import TrainingStep


class Callback:
    """Base of all callbacks: every method does nothing, override what matters.

    Every process calls them, in the order in which the experiment lists them, and what they see is the same on each: so
    must be what they change. They draw random numbers from ``vlrun.seeds`` with an address such as the position of the
    step, and keep what later steps need in ``state``; then a resumed run equals an unbroken one.
    """

    @classmethod
    def from_config(cls, config: Any) -> Callback:
        """The callback with the options of an experiment; one that has options reads them here."""
        return cls()

    def after_backward(self, step: TrainingStep) -> None:
        """The gradients of the global batch are in ``grad`` of the parameters, not yet clipped.

        A parameter that takes no part in the step, or does not train yet, has none. They may be changed.
        """

    def after_update(self, step: TrainingStep) -> None:
        """The optimiser has changed the parameters; the gradients, clipped, are still there."""

    def after_evaluation(self, report: EvaluationReport, model: nn.Module) -> None:
        """A split was scored between epochs; ``model`` has the weights from which training goes on."""

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold so that training can go on from it, by names; by default nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what ``state`` has given, when a run goes on; the tensors are on the CPU."""
