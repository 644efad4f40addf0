"""Losses of a global batch as a whole: its rows are put together on every process, each of which computes the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vlrun.engine.ranks import Ranks, lost_rank_explained
from vlrun.errors import PluginError
from vlrun.interfaces.task import Task
from vlrun.interfaces.training import TrainingStep

Rows = Mapping[str, Tensor]

_AS_INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bool: torch.uint8,
}
"""Types whose bits travel as another: where one process has a row and the others have zeros, their sum is exact."""


def has_batch_loss(task: object) -> bool:
    """Whether a task has losses of a global batch."""
    return type(task).batch_loss is not Task.batch_loss  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Places:
    """Where the rows of each pass are among all.

    Where all examples have as many rows, all are in the order of the batch, whose examples are dealt out to the passes;
    so the order does not tell how many passes there were. Else one pass follows the other.

    Attributes:
        examples, rows: how many each pass has.
    """

    examples: Sequence[int]
    rows: Sequence[int]

    def of_pass(self, whole: Tensor, number: int) -> Tensor:
        """A view of the rows of a pass; where they are in the order of the batch, (examples, rows of each, ...)."""
        total, passes = sum(self.examples), len(self.examples)
        of_each = sum(self.rows) // max(1, total)
        are_dealt = all(
            (examples, rows) == (len(range(place, total, passes)), examples * of_each)
            for place, (examples, rows) in enumerate(zip(self.examples, self.rows, strict=True))
        )
        if are_dealt:
            return whole.view(total, of_each, *whole.shape[1:])[number::passes]
        start = sum(self.rows[:number])
        return whole[start : start + self.rows[number]]


@dataclass(frozen=True)
class Share:
    """What a process has of a global batch: the number of examples of one of its passes, and their rows."""

    examples: int
    rows: Rows


@dataclass(frozen=True)
class BatchLoss:
    """The losses of a global batch and their gradient with respect to what they were computed of.

    Attributes:
        losses: this process's part of each; they add up to its value.
        rows: of all passes, without gradient.
        row_gradients: that of the sum of the losses, by name, of all rows.
        parameter_gradients: of parameters that the losses were computed with; on one process alone.
        places: name -> where the rows of each pass are.
    """

    losses: dict[str, Tensor]
    rows: Rows
    row_gradients: Rows
    parameter_gradients: Sequence[tuple[nn.Parameter, Tensor]]
    places: Mapping[str, Places]

    def pulled(self, number: int, rows: Rows, *, is_first: bool) -> Tensor | None:
        """A scalar of pass ``number`` whose gradient is that of the losses; None if they do not depend on it.

        Args:
            rows: of that pass, with their graph.
            is_first: whether it is this process's first one, which stands for the parameters, too.
        """
        pulls = []
        for name, own in rows.items():
            if own.requires_grad and name in self.row_gradients:
                gradient = self.places[name].of_pass(self.row_gradients[name], number)
                pulls.append((own * gradient.reshape(own.shape)).sum())
        if is_first:
            pulls += [(parameter * gradient).sum() for parameter, gradient in self.parameter_gradients]
        return torch.stack(pulls).sum() if pulls else None


def batch_loss(
    task: Task[object],
    step: TrainingStep,
    ranks: Ranks,
    own: Mapping[int, Share],
    passes: int,
    seed: int,
    weight: float,
) -> BatchLoss:
    """Computes the losses of a global batch, on all processes together.

    Args:
        own: number of each of this process's passes -> its share; the graph of its rows is left alone.
        passes: of all processes.
        seed: of torch's generator, the same on all.
        weight: factor on the losses.

    Raises:
        PluginError: rows of a name are not equally wide, or losses are no scalars.
    """
    rows, places = gathered(ranks, own, passes)
    first = next(iter(own.values())).rows
    parameters = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        leaves = {name: tensor.requires_grad_() for name, tensor in rows.items() if first[name].dtype.is_floating_point}
        torch.manual_seed(seed)
        losses = {name: value * weight for name, value in task.batch_loss({**rows, **leaves}, step).items()}
        if wrong := [name for name, value in losses.items() if value.ndim]:
            raise PluginError(f"task '{step.task}': batch_loss: '{wrong[0]}' is no scalar")
        with_gradient = [value for value in losses.values() if value.requires_grad]
        wanted = [*leaves.values(), *parameters]
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if with_gradient:
            found = torch.autograd.grad(torch.stack(with_gradient).sum(), wanted, allow_unused=True)
    of_rows, of_parameters = found[: len(leaves)], found[len(leaves) :]
    counts_here = ranks.is_main
    return BatchLoss(
        # what is not finite must not be so on the main process alone: the examples may be those of another
        {name: value.detach() if counts_here else value.detach() * 0 for name, value in losses.items()},
        {name: tensor.detach() for name, tensor in rows.items()},
        {name: gradient.contiguous() for name, gradient in zip(leaves, of_rows, strict=True) if gradient is not None},
        [
            (parameter, gradient)
            for parameter, gradient in zip(parameters, of_parameters, strict=True)
            if gradient is not None and counts_here
        ],
        places,
    )


def gathered(ranks: Ranks, own: Mapping[int, Share], passes: int) -> tuple[dict[str, Tensor], dict[str, Places]]:
    """The rows of all passes of all processes, without gradient, on each; and where those of each pass are.

    Raises:
        PluginError: rows of a name are not equally wide.
    """
    names = sorted(next(iter(own.values())).rows)
    facts = torch.zeros(passes, 1 + 2 * len(names), dtype=torch.float64)
    for number, share in own.items():
        sizes = [(len(share.rows[name]), share.rows[name].shape[1:].numel()) for name in names]
        facts[number] = torch.tensor([share.examples, *(size for pair in sizes for size in pair)])
    examples, *columns = torch.tensor(ranks.sum_counts(facts.flatten().tolist())).view(facts.shape).long().T.tolist()
    whole, places = {}, {}
    for name, counts, widths in zip(names, columns[::2], columns[1::2], strict=True):
        if len(set(widths)) > 1:
            raise PluginError(
                f"shared_rows: '{name}' has rows of {' and '.join(map(str, sorted(set(widths))))} numbers in the "
                "passes of one step; rows of one name are equally wide, so pad them to a fixed size"
            )
        places[name] = Places(examples, counts)
        rows = {number: share.rows[name].detach() for number, share in own.items()}
        whole[name] = _put_together(ranks, rows, places[name])
    return whole, places


def _put_together(ranks: Ranks, own: Mapping[int, Tensor], places: Places) -> Tensor:
    sample = next(iter(own.values()))
    whole = sample.new_zeros(sum(places.rows), *sample.shape[1:])
    for number, rows in own.items():
        place = places.of_pass(whole, number)
        place.copy_(rows.reshape(place.shape))
    if ranks.world_size > 1:
        bits = whole.view(_AS_INTEGERS.get(whole.dtype, whole.dtype))
        with lost_rank_explained():
            dist.all_reduce(bits)
    return whole
