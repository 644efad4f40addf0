"""What ``runner bench`` measures, and other ways of computing that it measures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Measurement:
    """One figure of a benchmark.

    Attributes:
        part: what it belongs to, such as ``features`` or ``step``.
        what: what was measured.
        unit: such as ``images/s`` or ``ms``.
        ratios: baseline -> the figure divided by that of the baseline, measured in the same run.
        note: anything that helps to read it.
    """

    part: str
    what: str
    value: float
    unit: str
    ratios: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    note: str = ""


class ByTurns(Protocol):
    """Measures several ways to do something."""

    def __call__(self, ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds of a call of each way; the rounds of all ways alternate, so a busy machine slows all alike."""
        ...


@dataclass(frozen=True)
class Baseline:
    """The same backbone written in another way, for ``runner bench --against``.

    A file for it has ``baselines(backbone) -> list[Baseline]``.

    Attributes:
        name: every ratio names it.
        about: what is different.
        network: takes an ``Encoding`` and gives a ``BackboneOutput``; it starts with the weights of the backbone, and
            the benchmark checks that it computes the same.
        optimizer: (parameters, ``train.optimizer`` of the experiment) -> an optimiser; None: that of the experiment.
        pads_texts: whether texts are padded to the longest that the task allows, instead of the longest of the batch.
        takes_half: whether its features stay in the type of the store; else they are float32 from the start.
    """

    name: str
    about: str
    network: nn.Module
    optimizer: Callable[[Iterable[nn.Parameter], Any], Optimizer] | None = None
    pads_texts: bool = True
    takes_half: bool = False
