"""A step of training as its task and the callbacks see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlrun.engine.model import TaskModel
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.tensors import Encoding, in_full_precision


@dataclass
class StepView:
    """A ``TrainingPass``; where nothing is trained, as in benchmarks and checks, with the defaults.

    Attributes:
        call: the model as it trains, given a task and an encoding; None: the model itself.
        autocast: wraps every call of a network.
        reported: name -> total and count so far, on the device.
    """

    model: TaskModel
    task: str
    call: Callable[[str, Encoding], Any] | None = None
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    companions: Mapping[str, nn.Module] = field(default_factory=dict)
    position: int = 0
    epoch: int = 0
    learning_rate: float = 0.0
    reported: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _is_rehearsal: bool = False

    @property
    def backbone(self) -> Backbone:
        """The backbone of all tasks."""
        return self.model.backbone

    @property
    def head(self) -> nn.Module:
        """That of the task."""
        return self.model.heads[self.task]

    def outputs(self, encoding: Encoding) -> Any:
        """What the head gives for P pairs in training."""
        with self.autocast():
            outputs = (self.call or self.model)(self.task, encoding)
        return in_full_precision(outputs)

    def ask(self, network: nn.Module, encoding: Encoding) -> Any:
        """What another network gives, without gradients."""
        with torch.no_grad(), self.autocast():
            return in_full_precision(network(encoding))

    def report(self, name: str, total: Tensor | float, count: Tensor | float = 1.0) -> None:
        """Adds to what is reported under a name.

        Raises:
            ValueError: a tensor is no scalar.
        """
        if self._is_rehearsal:
            return
        parts = (self._scalar(name, total), self._scalar(name, count))
        before = self.reported.get(name)
        self.reported[name] = parts if before is None else (before[0] + parts[0], before[1] + parts[1])

    @contextmanager
    def rehearsed(self) -> Iterator[None]:
        """Wraps a pass that will be made again, for its rows alone: nothing is reported, and there is no gradient."""
        self._is_rehearsal = True
        try:
            with torch.no_grad():
                yield
        finally:
            self._is_rehearsal = False

    def _scalar(self, name: str, value: Tensor | float) -> Tensor:
        device = next(self.model.parameters()).device
        if not isinstance(value, Tensor):  # unlike tensor(), full() makes it on the device, without a copy
            return torch.full((), float(value), device=device)
        if value.ndim:
            raise ValueError(f"'{name}' is reported as a tensor of shape {tuple(value.shape)}; sum it up: a scalar")
        return value.detach().to(device, torch.float32)
