"""Several processes as one: joining, summing, gathering, agreeing. One process is the same code with world size 1."""

from __future__ import annotations

import os
import pickle
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from vlrun.cpus import usable_cpus
from vlrun.engine.parent import watch_parent
from vlrun.engine.restarts import fresh_store, job_name
from vlrun.errors import DistributedError, FailedElsewhereError, LostRankError, RunnerError
from vlrun.seeds import derive_seed

T = TypeVar("T")

_GLOO = "gloo/transport/"  # gloo raises plain RuntimeErrors that name the place in its source
_BEAT_SECONDS = 10.0
_FAILURE = "vlrun/failure"


@dataclass(frozen=True)
class Ranks:
    """This process among all of the job.

    Attributes:
        rank, world_size: index of this process, and how many there are.
        device: where this process computes.
        control: a gloo group for small messages, so that they never wait for the accelerator; None if alone.
        store: where the ranks met; a rank that fails leaves its error there. None if alone.
        beat_seconds: how often the main rank says that it is still at work while the others wait for it.
        job: what stays the same when a launcher or batch system starts all again; only the main rank knows it.
    """

    rank: int
    world_size: int
    device: torch.device
    control: Any = None
    store: Any = None
    beat_seconds: float = _BEAT_SECONDS
    job: str | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and reports."""
        return self.rank == 0

    def sum_counts(self, values: list[float]) -> list[float]:
        """Element-wise sums over all ranks."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        with lost_rank_explained():
            dist.all_reduce(tensor, group=self.control)
        return tensor.tolist()

    def any(self, claim: bool) -> bool:
        """Whether the claim holds on at least one rank; every rank gets the same answer."""
        return self.sum_counts([float(claim)])[0] > 0

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, on the CPU."""
        tensor = tensor.detach().to("cpu", copy=True)  # the sum must not overwrite the caller's part
        if self.world_size > 1:
            with lost_rank_explained():
                dist.all_reduce(tensor, group=self.control)
        return tensor

    def share_weights(self, model: torch.nn.Module) -> None:
        """Gives every rank the main rank's parameters and buffers.

        Raises:
            DistributedError: the ranks have built different networks.
        """
        if self.world_size == 1:
            return
        tensors = [*model.named_parameters(), *model.named_buffers()]
        shapes = repr([(name, tuple(tensor.shape)) for name, tensor in tensors])
        self.check_agreement(derive_seed(0, shapes), "the shape of the network")  # a digest
        with torch.no_grad(), lost_rank_explained():
            for _, tensor in tensors:
                sent = tensor.detach().contiguous()
                dist.broadcast(sent, src=0)
                tensor.copy_(sent)

    def gather(self, items: list[T]) -> list[T]:
        """The items of all ranks, rank by rank, on every rank."""
        if self.world_size == 1:
            return items
        gathered: list[list[T]] = [[] for _ in range(self.world_size)]
        with lost_rank_explained():
            dist.all_gather_object(gathered, items, group=self.control)
        return [item for share in gathered for item in share]

    def from_main(self, compute: Callable[[], T]) -> T:
        """Computes on the main rank and gives the result to all.

        It may take any time: the main rank keeps saying that it is still at work, so no timeout ends the wait. What
        ``compute`` raises is raised on every rank (a bug as FailedElsewhereError on the others) and shown once.
        """
        if self.world_size == 1:
            return compute()
        if not self.is_main:
            while (message := self._broadcast(None)) is None:
                pass  # the main rank is still at work
            value, error = pickle.loads(message)  # noqa: S301 - of our own main rank
            if error is not None:
                error.is_shown_elsewhere = True
                raise error
            result: T = value
            return result
        try:
            with self._at_work():
                value = compute()
            message = pickle.dumps((value, None))
        except BaseException as error:
            with suppress(LostRankError):  # if nobody is left to be told, the error itself still counts
                self._broadcast(pickle.dumps((None, _for_others(error))))
            raise
        self._broadcast(message)
        return value

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wraps work that the ranks do side by side: an error on any of them is raised on all, and shown once.

        Otherwise a rank that fails alone would leave the others waiting for it. Inside, the ranks must not talk to each
        other, unless what goes wrong there goes wrong on all.
        """
        failure: Exception | None = None
        try:
            yield
        except LostRankError:
            raise  # there is nobody to tell
        except Exception as error:
            if self.world_size == 1:
                raise
            failure = error
        if self.any(failure is not None):
            self.raise_together(failure)

    def raise_together(self, failure: Exception | None) -> NoReturn:
        """Raises on all ranks what at least one of them met: ``failure``, None where there was none."""
        if failure is not None and self.world_size == 1:
            raise failure
        failures = self.gather([] if failure is None else [(self.rank, _for_others(failure))])
        rank, theirs = failures[0]
        raised: Exception = theirs if failure is None else failure
        if isinstance(raised, RunnerError):
            raised.is_shown_elsewhere = self.rank != rank
        raise raised

    @contextmanager
    def announcing(self) -> Iterator[None]:
        """Wraps work in which the others wait inside torch, where no message reaches them, for a rank that fails.

        Its connections break when it leaves. What it failed with lies in the store by then, and is raised on them.
        """
        try:
            yield
        except LostRankError as lost:
            raise self._announced() or lost from None
        except Exception as error:
            if self.store is not None:
                self.store.set(_FAILURE, pickle.dumps(_for_others(error)))
            raise

    def _announced(self) -> RunnerError | None:
        """What another rank has failed with."""
        try:
            if self.store is None or not self.store.check([_FAILURE]):
                return None
            error: RunnerError = pickle.loads(self.store.get(_FAILURE))  # noqa: S301 - of our own ranks
        except RuntimeError:  # the store went with its rank
            return None
        error.is_shown_elsewhere = True
        return error

    def _broadcast(self, message: bytes | None) -> bytes | None:
        """The main rank's message, on every rank."""
        held = [message]
        with lost_rank_explained():
            dist.broadcast_object_list(held, src=0, group=self.control)
        return held[0]

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Tells the others, while it is open, that there is no answer yet."""
        done = threading.Event()

        def beat() -> None:
            try:
                while not done.wait(self.beat_seconds):
                    self._broadcast(None)
            except LostRankError:
                return  # sending the answer will fail in the same way, and say so

        thread = threading.Thread(target=beat, name="still-at-work", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def check_agreement(self, value: Any, what: str) -> None:
        """Raises DistributedError if ``value`` differs between ranks."""
        values = self.gather([value])
        if any(other != values[0] for other in values):
            listed = ", ".join(f"rank {rank}: {other}" for rank, other in enumerate(values))
            raise DistributedError(f"the ranks disagree on {what}: {listed}")

    def barrier(self) -> None:
        """Waits until all ranks are here."""
        if self.world_size > 1:
            with lost_rank_explained():
                dist.barrier(group=self.control)


def is_launched() -> bool:
    """Whether torchrun (or our own launcher) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launched_rank() -> int:
    """The rank of this process in the launched job; 0 without one. Known before the ranks are joined."""
    return int(os.environ.get("RANK", "0"))


def local_world_size() -> int:
    """How many processes of the launched job are on this machine; 1 without one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))) if is_launched() else 1


def local_rank() -> int:
    """Which of the launched job's processes on this machine this one is; 0 without a job."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_launched() else 0


def choose_device(local_rank: int = 0, local_world_size: int = 1) -> torch.device:
    """The accelerator of this process, or the CPU.

    Apple's GPU is for a single process: several would sum their gradients with gloo, which only knows CPUs.

    Raises:
        DistributedError: more processes on this machine than GPUs.
    """
    if not torch.cuda.is_available():
        alone = local_world_size == 1 and not is_launched()
        return torch.device("mps" if alone and torch.backends.mps.is_available() else "cpu")
    if local_world_size > torch.cuda.device_count():
        raise DistributedError(
            f"{local_world_size} processes were asked for, this machine has {torch.cuda.device_count()} GPUs; "
            "lower --nproc, or hide the GPUs with CUDA_VISIBLE_DEVICES= to use the CPU"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def device_name(device: torch.device) -> str:
    """A readable name of an accelerator."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} GPU (MPS)"


def gpu_names() -> list[str]:
    """The names of all GPUs that torch can use on this machine."""
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [device_name(torch.device("mps"))] if torch.backends.mps.is_available() else []


@contextmanager
def join_ranks(timeout_seconds: int, threads: int | None = None) -> Iterator[Ranks]:
    """Joins the job that torchrun's environment describes; without one this process is alone.

    Args:
        timeout_seconds: how long to wait for a rank that does not answer.
        threads: CPU threads of this process; None shares the cores among the processes of this machine.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if not is_launched():
        yield Ranks(0, 1, choose_device(), job=job_name())
        return
    world_size = int(os.environ["WORLD_SIZE"])
    processes_here = local_world_size()
    device = choose_device(local_rank(), processes_here)
    timeout = timedelta(seconds=timeout_seconds)
    if device.type == "cpu" and threads is None:
        torch.set_num_threads(max(1, usable_cpus() // processes_here))
    watch_parent()
    with lost_rank_explained():
        shared, rank, _ = next(iter(rendezvous("env://", timeout=timeout)))
        job = job_name(shared) if rank == 0 else None
        store = fresh_store(shared, rank, world_size, timeout)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
        control = dist.new_group(backend="gloo", timeout=timeout)
    try:
        with lost_ranks_explained(world_size):
            ranks = Ranks(rank, world_size, device, control, store, min(_BEAT_SECONDS, timeout_seconds / 4), job)
            yield ranks
            ranks.barrier()  # a rank that leaves early aborts the others
    finally:
        dist.destroy_process_group()


@contextmanager
def lost_ranks_explained(world_size: int) -> Iterator[None]:
    """Explains torch's errors about a rank that is gone or hangs, wherever they arise.

    Raises:
        LostRankError: a connection was lost or timed out; any other error is a bug and stays what it is.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size > 1 and isinstance(error, dist.DistError):
            raise _lost(error) from error
        raise


@contextmanager
def lost_rank_explained() -> Iterator[None]:
    """Wraps one collective of several ranks: there gloo's errors mean a lost rank, too, whatever their class."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or _GLOO in str(error):
            raise _lost(error) from error
        raise


def _lost(error: RuntimeError) -> LostRankError:
    reason = str(error).splitlines()[0].rpartition("] ")[2].partition(". This is typically")[0]
    return LostRankError(
        f"another process is gone or does not answer ({reason}); the others were stopped. --resume continues from "
        "the last checkpoint, train.distributed_timeout sets how long to wait"
    )


def _for_others(error: BaseException) -> RunnerError:
    """What the other ranks raise where this one raises ``error``."""
    if isinstance(error, RunnerError):
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - our own; some can be pickled but not read back
        except Exception:  # its text has to do
            substitute = RunnerError(str(error))
            substitute.exit_status = error.exit_status
            return substitute
        return error
    return FailedElsewhereError(f"another process failed: {type(error).__name__}: {error}")
