"""Several processes as one: joining, summing, gathering, agreeing. One process is the same code with world size 1.

Gradients are summed here, after the backward pass, in buckets, instead of wrapping the model in
DistributedDataParallel: heads and layers that a step does not use have no gradient on any rank and simply take no
part, and because losses are divided by global counts the sum *is* the gradient of the global batch.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vlrun.errors import DistributedError, RunnerError

T = TypeVar("T")

_SIGNS_OF_LOSS = ("Connection closed by peer", "Connection reset", "Timed out", "timed out", "NCCL", "gloo")

_BUCKET_BYTES = (
    25 * 2**20
)  # DistributedDataParallel's default: large enough for bandwidth, small enough to copy cheaply


@dataclass(frozen=True)
class Ranks:
    """This process among all of the job.

    Attributes:
        rank, world_size: index of this process, and how many there are.
        device: where this process computes.
        control: a gloo group for small messages, so that they never wait for the accelerator; None if alone.
    """

    rank: int
    world_size: int
    device: torch.device
    control: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_counts(self, values: list[float]) -> list[float]:
        """Element-wise sums over all ranks."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return tensor.tolist()

    def any(self, claim: bool) -> bool:
        """Whether the claim holds on at least one rank; every rank gets the same answer."""
        return self.sum_counts([float(claim)])[0] > 0

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, on the CPU."""
        tensor = tensor.detach().to("cpu", copy=True)  # the sum must not overwrite the caller's part
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.control)
        return tensor

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces every gradient by its sum over all ranks.

        All ranks run the same task in a step, so the same parameters have gradients everywhere.
        """
        if self.world_size == 1:
            return
        waiting = []
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            waiting.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in waiting:
            work.wait()
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def gather(self, items: list[T]) -> list[T]:
        """The items of all ranks, rank by rank, on every rank."""
        if self.world_size == 1:
            return items
        gathered: list[list[T]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(gathered, items, group=self.control)
        return [item for share in gathered for item in share]

    def from_main(self, compute: Callable[[], T]) -> T:
        """Computes on the main rank and tells the others.

        Raises:
            RunnerError: what ``compute`` raised, on every rank; only the main rank's copy is to be shown.
        """
        if self.world_size == 1:
            return compute()
        message: list[Any] = [None, None]
        if self.is_main:
            try:
                message[0] = compute()
            except RunnerError as error:
                message[1] = error
        dist.broadcast_object_list(message, src=0, group=self.control)
        if message[1] is not None:
            message[1].is_shown_elsewhere = not self.is_main
            raise message[1]
        result: T = message[0]
        return result

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Around what every rank does in the same way: an error in it is raised on all, and shown by the main rank."""
        try:
            yield
        except RunnerError as error:
            error.is_shown_elsewhere = not self.is_main
            raise

    def check_agreement(self, value: Any, what: str) -> None:
        """Raises DistributedError if ``value`` differs between ranks."""
        values = self.gather([value])
        if any(other != values[0] for other in values):
            listed = ", ".join(f"rank {rank}: {other}" for rank, other in enumerate(values))
            raise DistributedError(f"the ranks disagree on {what}: {listed}")

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier(group=self.control)


def is_launched() -> bool:
    """Whether torchrun (or our own launcher) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launched_rank() -> int:
    return int(os.environ.get("RANK", "0"))


def choose_device(local_rank: int = 0, local_world_size: int = 1) -> torch.device:
    """The accelerator of this process, or the CPU.

    Raises:
        DistributedError: more processes on this machine than accelerators.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_world_size > torch.cuda.device_count():
        raise DistributedError(
            f"{local_world_size} processes were asked for, this machine has {torch.cuda.device_count()} GPUs; "
            "lower --nproc, or hide the GPUs with CUDA_VISIBLE_DEVICES= to use the CPU"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@contextmanager
def join_ranks(timeout_seconds: int, threads: int | None = None) -> Iterator[Ranks]:
    """This process's place in the job that torchrun's environment describes; alone where there is none.

    Args:
        timeout_seconds: how long to wait for a rank that does not answer.
        threads: CPU threads of this process; None shares the cores among the processes of this machine.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if not is_launched():
        yield Ranks(0, 1, choose_device())
        return
    world_size, local_rank = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    device = choose_device(local_rank, local_world_size)
    timeout = timedelta(seconds=timeout_seconds)
    if device.type == "cpu" and threads is None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_world_size))
    _leave_with_parent()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    control = dist.new_group(backend="gloo", timeout=timeout)
    try:
        with lost_ranks_named():
            yield Ranks(dist.get_rank(), world_size, device, control)
            dist.barrier(group=control)  # a rank that leaves early aborts the others
    finally:
        dist.destroy_process_group()


@contextmanager
def lost_ranks_named() -> Iterator[None]:
    """Turns torch's words for a rank that is gone or hangs into ours.

    Raises:
        DistributedError: a connection was lost or timed out; any other RuntimeError is a bug and stays what it is.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rpartition("] ")[2]
        if not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
            raise
        raise DistributedError(
            f"another process is gone or does not answer ({reason}); the others were stopped. --resume continues from "
            "the last checkpoint, train.distributed_timeout sets how long to wait"
        ) from error


def _leave_with_parent() -> None:
    """Ends this process when its launcher is gone; else a killed launcher leaves ranks behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(DistributedError.exit_status)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size >= _BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
    if bucket:
        yield bucket
