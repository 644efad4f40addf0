"""The steps of a segment with this rank's micro-batches, which travel to the device one step ahead of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from vlrun.engine.mixing import PlannedStep
from vlrun.engine.trainer import Trainer
from vlrun.interfaces.tensors import Batch


@dataclass(frozen=True)
class LoadedStep:
    """A step with its data.

    Attributes:
        ids: the examples of this rank.
        micro_batches: one for each of this rank's passes, on the device or on their way there.
        counts: this rank's number of items that each named loss is divided by.
    """

    planned: PlannedStep
    ids: Sequence[str]
    micro_batches: Sequence[Batch]
    counts: Mapping[str, float]


def loaded_steps(trainer: Trainer, segment: Sequence[PlannedStep]) -> Iterator[LoadedStep]:
    """Each step of a segment, made by one loader; what is asked for is at once on its way to the device.

    Raises:
        DataError: the data are wrong.
        DistributedError: a loader worker was killed or hangs.
    """
    run = trainer.run
    addresses = (  # a generator: the addresses of a million examples would take hundreds of megabytes
        [(step.task_index, address) for address in addresses]
        for step in segment
        for addresses in run.tasks[step.task_index].plan.batches(step.epoch, step.step)
    )
    batches = iter(trainer.window.timed(trainer.loader.batches(addresses)))
    for step in segment:
        task_run = run.tasks[step.task_index]
        micro_batches = list(islice(batches, len(task_run.plan.own_passes)))
        per_batch = [task_run.task.loss_counts(batch.targets) for batch in micro_batches]
        yield LoadedStep(
            planned=step,
            ids=[name for batch in micro_batches for name in batch.ids],
            micro_batches=[trainer.copies.start(batch) for batch in micro_batches],
            counts={name: sum(float(counts[name]) for counts in per_batch) for name in sorted(per_batch[0])},
        )
