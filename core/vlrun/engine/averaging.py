"""An exponential moving average of a model's weights (Polyak and Juditsky 1992, as it is used today)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """Follows the weights of a model, and stands in for them while they are evaluated or saved."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._decay = decay
        self._average: list[Tensor] | None = None

    def take(self) -> None:
        """Makes the weights of the model, as they are, the average."""
        self._average = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, position: int) -> None:
        """Moves the average towards the weights after step ``position``, counted from 0.

        In the first steps it follows faster: the share of the average that stays is at most (1 + n) / (10 + n).
        """
        if self._average is None:
            self.take()
            return
        stays = min(self._decay, (1 + position) / (10 + position))
        torch._foreach_lerp_(self._average, [parameter.detach() for parameter in self._parameters], 1 - stays)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with its averaged weights for as long as the context lasts."""
        if self._average is None:
            yield
            return
        trained = [parameter.detach().clone() for parameter in self._parameters]
        self._put(self._average)
        try:
            yield
        finally:
            self._put(trained)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        torch._foreach_copy_([parameter.detach() for parameter in self._parameters], values)
