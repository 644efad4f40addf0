"""A run as one of its tasks sees it: what the engine offers to a task that evaluates or mines in its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vlrun.interfaces.backbone import Backbone, PairEncoder
    from vlrun.interfaces.dataset import Dataset
    from vlrun.interfaces.examples import Prediction, RegionBatch

T = TypeVar("T")


class RanksView(Protocol):
    """The processes of a run. Every method but the properties is called by all of them together."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        ...

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        ...

    def sum_counts(self, values: list[float]) -> list[float]:
        """Element-wise sums over all processes."""
        ...

    def gather(self, items: list[T]) -> list[T]:
        """The items of all processes, process by process, on each of them."""
        ...

    def from_main(self, compute: Callable[[], T]) -> T:
        """Computes on the main process and tells the others, errors too; however long it takes, they wait."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Around what the processes do side by side, without talking: an error on any is raised on all, shown once."""
        ...

    def barrier(self) -> None:
        """Waits until all processes are here."""
        ...


class RunView(Protocol):
    """What a task gets of the run that it belongs to. One process is the same code with a world size of 1."""

    @property
    def name(self) -> str:
        """What the experiment calls the task."""
        ...

    @property
    def seed(self) -> int:
        """Of the run; derive addresses from it with ``vlrun.seeds``."""
        ...

    @property
    def datasets(self) -> Mapping[str, Dataset[Any]]:
        """The evaluation splits by name, in the order of the experiment; every example has features."""
        ...

    @property
    def train(self) -> Dataset[Any] | None:
        """All training examples; None where nothing is trained."""
        ...

    @property
    def encode(self) -> PairEncoder:
        """The backbone's text and box pipeline for this task."""
        ...

    @property
    def ranks(self) -> RanksView:
        """The processes of the run."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    @property
    def folder(self) -> Path:
        """The run folder; files of a task belong into folders named by what they hold, such as ``scores``."""
        ...

    @property
    def backbone(self) -> Backbone:
        """The backbone with its weights as they are now."""
        ...

    @property
    def head(self) -> nn.Module:
        """What the task's ``build_head`` gave, with its weights as they are now."""
        ...

    def read_regions(self, image_ids: Sequence[str]) -> RegionBatch:
        """Regions as the model may see them: blank where the experiment hides the images."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """Around the model: half precision where the experiment asks for it."""
        ...

    def predict(self, split: str) -> list[Prediction]:
        """One prediction for every example of a split, in order and on every process: the engine's own evaluation.

        Raises:
            StoppedOnRequest: a signal asked for it.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """What decides the model's numbers, for files that are kept: weights, options, features, precision, device."""
        ...

    def leave_if_asked(self, during: str) -> None:
        """Ends what is going on, on all processes together, once a signal has reached any of them.

        Raises:
            StoppedOnRequest: see to it that nothing is lost.
        """
        ...

    def note(self, message: str) -> None:
        """Tells the reader something, once, from the main process."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """Shows how far something is that takes long; called on every process, shown by the main one."""
        ...
