"""From datasets to batches. Order is addressed by (seed, epoch), so workers, ranks and restarts never change it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from vlrun.data.hidden_images import shown_regions
from vlrun.data.order import LengthGroups, epoch_order
from vlrun.data.residency import OutlinedBatch, Residency
from vlrun.data.workers import EndsWith, lost_worker, name_lost_workers
from vlrun.errors import RunnerError
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.backbone import PairEncoder, Vocabulary
from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.examples import Example, Pair, RegionBatch
from vlrun.interfaces.masking import Unmasked
from vlrun.interfaces.task import Task
from vlrun.interfaces.tensors import Batch
from vlrun.seeds import derive_seed, example_rng

Address = tuple[int, int]
"""(epoch, position in the dataset)"""

TaskAddress = tuple[int, Address]
"""(index of the task, address in its data)"""


class RegionReader(Protocol):
    """What the loader needs of a region-feature store."""

    def read(self, image_ids: Sequence[str]) -> RegionBatch:
        """The regions of these images, in this order."""
        ...

    def read_with_classes(self, image_ids: Sequence[str]) -> RegionBatch:
        """The same with the detector's classes; called only where the task or the backbone asks for them."""
        ...


class Regions(RegionReader, Protocol):
    """Where a task's region features come from."""

    @property
    def path(self) -> Path:
        """Where they are stored."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the content."""
        ...

    @property
    def extractor(self) -> str:
        """Name of what made them; empty where it is unknown."""
        ...


@dataclass(frozen=True)
class TrainingPlan:
    """Which examples every step of every epoch trains on, whatever the number of ranks.

    A global batch is a run of ``batch_size`` examples of the epoch's order. Micro-batch m of M is every M-th of them
    from m on, whichever rank it goes to; the ranks take consecutive ones. M is ``micro_batches``, or the world size if
    that is larger. With ``groups``, texts of a batch are about as long.
    """

    num_examples: int
    batch_size: int
    seed: int
    order_seed: int | None = None
    drop_last: bool = True
    rank: int = 0
    world_size: int = 1
    micro_batches: int = 1
    groups: LengthGroups | None = None

    @property
    def passes(self) -> int:
        """Forward passes of all ranks in a step."""
        return max(self.micro_batches, self.world_size)

    @property
    def own_passes(self) -> range:
        """Numbers of this rank's forward passes in a step."""
        first, last = (rank * self.passes // self.world_size for rank in (self.rank, self.rank + 1))
        return range(first, last)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; an incomplete last batch counts if it is not dropped and has an example for every pass."""
        full, rest = divmod(self.num_examples, self.batch_size)
        keeps_rest = rest >= self.passes and (not self.drop_last or full == 0)
        return full + int(keeps_rest)

    def global_batch(self, epoch: int, step: int) -> Sequence[int]:
        """Positions of all examples of a step, over all ranks."""
        order = self._order(epoch)
        positions: list[int] = order[step * self.batch_size : (step + 1) * self.batch_size].tolist()
        return positions

    def batch_of(self, epoch: int, position: int) -> Sequence[int]:
        """Positions of the global batch that an example is part of."""
        place = int(_places(self, epoch)[position])
        return self.global_batch(epoch, place // self.batch_size)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self.groups is not None:
            return self.groups.order(self.seed, epoch, self.order_seed, self.batch_size)
        return epoch_order(self.num_examples, self.seed, epoch, self.order_seed)

    def batches(self, epoch: int, step: int) -> list[list[Address]]:
        """This rank's micro-batches of a step, one for each of ``own_passes``."""
        batch = self.global_batch(epoch, step)
        return [[(epoch, position) for position in batch[number :: self.passes]] for number in self.own_passes]


@lru_cache(maxsize=8)
def _places(plan: TrainingPlan, epoch: int) -> NDArray[np.int64]:
    """The place of each example in the epoch's order, (size,)."""
    return np.argsort(plan._order(epoch))


@dataclass(frozen=True)
class EvaluationBatches(Sequence[list[Address]]):
    """This rank's batches of a split, made when asked for.

    The split is cut into batches first, which are then dealt out, so that a batch is the same for any world size.
    """

    num_examples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1

    @property
    def rounds(self) -> int:
        """How many batches the rank with the most of them has."""
        return len(range(0, self.num_examples, self.batch_size * self.world_size))

    @property
    def _starts(self) -> range:
        return range(self.rank * self.batch_size, self.num_examples, self.batch_size * self.world_size)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, number: int) -> list[Address]: ...

    @overload
    def __getitem__(self, number: slice) -> list[list[Address]]: ...

    def __getitem__(self, number: int | slice) -> list[Address] | list[list[Address]]:
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        start = self._starts[number]
        return [(0, position) for position in range(start, min(start + self.batch_size, self.num_examples))]


class BatchMaker:
    """Makes whole batches; lives in loader workers, so it is picklable and holds no open handles.

    Attributes:
        outlines: whether batches go out without their region features, which ``Residency`` then fills in;
            None until that is decided.
        touches: whether those are read from the disk here all the same, so that they are in the system's cache then.
    """

    def __init__(
        self,
        task: Task[Any],
        dataset: Dataset[Any],
        store: RegionReader,
        encode: PairEncoder,
        seed: int,
        hides_images: bool = False,
        plan: TrainingPlan | None = None,
        vocabulary: Vocabulary | None = None,
        reads_classes: bool = False,
    ) -> None:
        """Puts together what makes a batch of ``dataset`` for ``task``.

        Args:
            hides_images: show the model blank images.
            plan: the training plan, for tasks whose pairs depend on the global batch; None in evaluation.
            vocabulary: that of the backbone, for tasks that mask words.
            reads_classes: whether the backbone gets the detector's classes; a task gets them if it asks for them.
        """
        self.task, self.dataset, self.store, self.encode, self.seed = task, dataset, store, encode, seed
        self.hides_images = hides_images
        self.outlines: bool | None = None
        self.touches = False
        self.plan = plan
        self.vocabulary = vocabulary
        self.reads_classes = reads_classes or task.reads_classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, addresses: Sequence[Address]) -> Batch | RunnerError:
        """Makes a batch. A data error is returned, not raised: a worker would wrap a traceback around it."""
        try:
            return self.sent(addresses)
        except RunnerError as error:
            return error

    def sent(self, addresses: Sequence[Address]) -> Batch:
        """What workers send of these addresses: the batch, with or without its features; raises as ``made`` does."""
        return self.outlined(*self.pairs(addresses)) if self.outlines else self.made(addresses)

    def made(self, addresses: Sequence[Address]) -> Batch:
        """Makes the batch of these addresses, with its features.

        Raises:
            DataError: the data are wrong.
        """
        examples, pairs = self.pairs(addresses)
        return self.batch(addresses, examples, pairs, self.regions(pairs))

    def pairs(self, addresses: Sequence[Address]) -> tuple[list[Example[Any]], list[list[Pair]]]:
        """The examples at these addresses, and the pairs of each."""
        examples = [self.dataset[position] for _, position in addresses]
        rngs = [example_rng(self.seed, epoch, position) for epoch, position in addresses]
        if self.plan is None or not self.task.in_batch:
            return examples, [self.task.pairs(example, rng) for example, rng in zip(examples, rngs, strict=True)]
        global_batch = [self.dataset[position] for position in self.plan.batch_of(*addresses[0])]
        return examples, [
            self.task.pairs_in_batch(example, global_batch, rng) for example, rng in zip(examples, rngs, strict=True)
        ]

    def regions(self, pairs: Sequence[Sequence[Pair]]) -> RegionBatch:
        """The uncut regions of all pairs, in order."""
        return self._read([pair.image_id for own_pairs in pairs for pair in own_pairs])

    def _read(self, image_ids: Sequence[str]) -> RegionBatch:
        return self.store.read_with_classes(image_ids) if self.reads_classes else self.store.read(image_ids)

    def batch(
        self,
        addresses: Sequence[Address],
        examples: Sequence[Example[Any]],
        pairs: Sequence[Sequence[Pair]],
        regions: RegionBatch,
    ) -> Batch:
        """Encodes pairs and their regions, collates the targets, and masks what the task masks."""
        regions = shown_regions(regions, self.hides_images)
        encoding = self.encode([pair for own_pairs in pairs for pair in own_pairs], regions)
        targets = self.task.collate(examples, regions, encoding)
        ids = tuple(example.id for example in examples)
        if type(self.task).mask is Task.mask:  # a generator for each pair would cost more than the rest
            return Batch(ids, encoding, targets)
        rngs = [
            example_rng(derive_seed(self.seed, "mask", number), epoch, position)
            for (epoch, position), own_pairs in zip(addresses, pairs, strict=True)
            for number in range(len(own_pairs))
        ]
        encoding, mask_targets = self.task.mask(
            Unmasked(
                [example for example, own_pairs in zip(examples, pairs, strict=True) for _ in own_pairs],
                [pair for own_pairs in pairs for pair in own_pairs],
                regions,
                encoding,
                rngs,
                self.vocabulary,
                self._read_shown,
            )
        )
        return Batch(ids, encoding, {**targets, **mask_targets})

    def _read_shown(self, image_ids: Sequence[str]) -> RegionBatch:
        return shown_regions(self._read(image_ids), self.hides_images)

    def outlined(self, examples: Sequence[Example[Any]], pairs: Sequence[Sequence[Pair]]) -> OutlinedBatch:
        """What ``batch`` makes, without its region features."""
        assert isinstance(self.store, RegionFeatureStore)
        flat = [pair for own_pairs in pairs for pair in own_pairs]
        regions = self.store.outline([pair.image_id for pair in flat], with_classes=self.reads_classes)
        encoding = self.encode(flat, regions)
        # 0 wide from here on, so that nobody takes the zeros that the encoder has seen for features
        encoding = replace(encoding, region_features=encoding.region_features[..., :0].clone())
        targets = self.task.collate(examples, replace(regions, features=regions.features[..., :0]), encoding)
        if self.touches:
            self.store.touch(regions.image_ids)
        ids = tuple(example.id for example in examples)
        return OutlinedBatch(ids, encoding, targets, regions.image_ids, self.store.file)


class JointBatchMaker:
    """Makes batches for several tasks, each batch for one task; all tasks share the loader's workers."""

    def __init__(self, makers: Sequence[BatchMaker]) -> None:
        self.makers = list(makers)

    def __getitems__(self, addresses: Sequence[TaskAddress]) -> Batch | RunnerError:
        task = addresses[0][0]
        return self.makers[task].__getitems__([address for _, address in addresses])


class BatchLoader:
    """Makes batches in processes that live on from one run of ``batches`` to the next."""

    def __init__(
        self,
        maker: BatchMaker | JointBatchMaker,
        *,
        workers: int,
        pin_memory: bool = False,
        timeout_seconds: int = 0,
        residency: Residency | None = None,
    ) -> None:
        """Prepares a loader; processes start with the first batch.

        Args:
            workers: number of processes; with 0 this one makes the batches.
            timeout_seconds: after which a worker that does not answer ends the run; 0 waits for ever.
            residency: where batches that are made without region features get theirs.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork of a worker
        self._maker, self._workers, self._pin_memory = maker, workers, pin_memory
        self._timeout_seconds = timeout_seconds if workers else 0
        self._residency = residency or Residency()
        self._feed = _Feed()
        self._loader: DataLoader[Any] | None = None

    def restart(self) -> None:
        """Lets the workers go: those that come next know what the maker knows by then."""
        self._loader = None

    def batches(self, addresses: Iterable[list[Any]]) -> Iterator[Batch]:
        """Batches in the order asked for; one run at a time.

        Raises:
            DataError: the data are wrong.
            DistributedError: a worker was killed or hangs.
        """
        self._feed.batches = addresses
        if self._loader is None:
            self._loader = DataLoader(
                self._maker,  # type: ignore[arg-type]
                batch_sampler=self._feed,
                collate_fn=_as_is,
                num_workers=self._workers,
                pin_memory=self._pin_memory,
                timeout=self._timeout_seconds,
                persistent_workers=self._workers > 0,
                worker_init_fn=EndsWith(os.getpid()),
            )
        made = iter(self._loader)
        if self._workers:
            name_lost_workers()
        if not (self._workers and self._residency.outlines):
            while (batch := self._next(made)) is not None:
                yield batch
            return
        with ThreadPoolExecutor(1) as beside:  # it reads the features of the next batch while this one is used
            coming = beside.submit(self._next, made)
            while (batch := coming.result()) is not None:
                coming = beside.submit(self._next, made)
                yield batch

    def _next(self, made: Iterator[Batch | RunnerError]) -> Batch | None:
        try:
            batch = next(made)
        except StopIteration:
            return None
        except RuntimeError as error:
            if not self._workers or not str(error).startswith("DataLoader"):
                raise
            raise lost_worker(error) from error
        if isinstance(batch, RunnerError):
            raise batch
        return self._residency.complete(batch)


class _Feed:
    """The addresses of the batches that a loader is to make, exchanged for each run."""

    def __init__(self) -> None:
        self.batches: Iterable[list[Any]] = ()

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.batches)


def _as_is(batch: Any) -> Any:
    return batch
