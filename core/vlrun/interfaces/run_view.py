"""A run as one of its tasks sees it: what the engine offers to a task that evaluates or mines in a way of its own."""

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
    from vlrun.interfaces.examples import Example, Prediction, RegionBatch
    from vlrun.interfaces.tensors import Batch

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
        """Computes on the main process and gives the result or the error to all; the others wait, however long."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Wraps work done side by side, without talking: an error on any process is raised on all, and shown once."""
        ...

    def barrier(self) -> None:
        """Waits until all processes are here."""
        ...


class RunView(Protocol):
    """What a task sees of its run. A single process is the same code with a world size of 1."""

    @property
    def name(self) -> str:
        """What the experiment calls the task."""
        ...

    @property
    def seed(self) -> int:
        """The seed of the run; derive others from it with ``vlrun.seeds``."""
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
        """The run folder; a task's files belong in subfolders named after what they hold, such as ``scores``."""
        ...

    @property
    def backbone(self) -> Backbone:
        """The backbone with its weights as they are now."""
        ...

    @property
    def head(self) -> nn.Module:
        """The module that the task's ``build_head`` returned, with its weights as they are now."""
        ...

    def read_regions(self, image_ids: Sequence[str]) -> RegionBatch:
        """Reads regions as the model may see them: blank where the experiment hides the images."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """Wraps a call of the model: half precision where the experiment asks for it."""
        ...

    def predict(self, split: str) -> list[Prediction]:
        """One prediction for every example of a split, in order and on every process: the engine's own evaluation.

        Raises:
            StoppedOnRequest: a signal came.
        """
        ...

    def outputs(self, example: Example[Any]) -> tuple[Any, Batch]:
        """What ``predict`` takes, for one example that need not be in any split."""
        ...

    def identity(self) -> dict[str, Any]:
        """All that the model's numbers depend on, for cached files: weights, options, features, precision, device."""
        ...

    def leave_if_asked(self, during: str) -> None:
        """Stops the current work, on all processes together, once a signal has reached any of them.

        Raises:
            StoppedOnRequest: a signal came; make sure that nothing is lost.
        """
        ...

    def note(self, message: str) -> None:
        """Shows a remark to the reader, once, from the main process."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """Shows the progress of something slow; called on every process, shown by the main one."""
        ...
