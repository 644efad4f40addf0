"""The gradient of a global batch: torch's DistributedDataParallel sums it over ranks while the backward pass goes on.

Losses are divided by global counts, so the *sum* over ranks is the gradient of the global batch; nothing is averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from vlrun.engine.ranks import Ranks, lost_rank_explained
from vlrun.errors import ConfigError
from vlrun.interfaces.tensors import Encoding


class SharedModel:
    """A model as all ranks train it together: after a backward pass each has the gradient of all.

    A step may leave out heads and layers. DistributedDataParallel would give their parameters a gradient of 0, which
    an optimiser takes as a reason to decay them; here they have none. ``find_unused_parameters`` does that, too, but it
    searches the graph in every step, sends a message of its own and waits for the device to read it. Instead, the
    backward pass reaches every parameter, ``used`` says which of them it had a gradient for, the step's one message
    adds that up, and ``drop_unused`` takes the rest out again.
    """

    def __init__(
        self, model: nn.Module, ranks: Ranks, compression: str = "none", *, compiled: bool | str = False
    ) -> None:
        """Shares ``model``, whose own parameters and names stay.

        Args:
            compression: type in which gradients travel.
            compiled: whether to compile it; ``cuda-graphs``: and to replay its kernels from CUDA graphs.
        """
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._used = [False] * len(self._parameters)
        self._model: Callable[..., Any] = model
        self._parallel: DistributedDataParallel | None = None
        if ranks.world_size > 1 and self._parameters:
            self._model = self._parallel = _data_parallel(model)
            add = _COMPRESSIONS[compression]
            self._parallel.register_comm_hook(None, lambda _, bucket: add(bucket))
            for index, parameter in enumerate(self._parameters):
                parameter.register_post_accumulate_grad_hook(self._noted(index))  # type: ignore[no-untyped-call]

        self._compiled, self._replays = bool(compiled), compiled == "cuda-graphs"
        if compiled:
            self._model = torch.compile(self._model, mode="reduce-overhead" if self._replays else None)

    def __call__(self, task: str, encoding: Encoding) -> Any:
        """The output of a task's head, as ``TaskModel.forward`` returns it.

        Raises:
            ConfigError: the network cannot be compiled.
        """
        if self._replays:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        try:
            return self._model(task, encoding)
        except Exception as error:
            if self._compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise ConfigError(
                    f"train.compile: torch cannot compile the network here: {' '.join(str(error).splitlines()[:2])}; "
                    "leave it off"
                ) from error
            raise

    def clear(self) -> None:
        """Takes all gradients away, before the first micro-batch of a step."""
        for parameter in self._parameters:
            parameter.grad = None
        self._used = [False] * len(self._parameters)

    def accumulating(self, more: bool) -> AbstractContextManager[Any]:
        """Wraps forward and backward pass of a micro-batch; with ``more`` to follow, nothing is sent yet."""
        if self._parallel is None or not more:
            return nullcontext()
        no_sync: AbstractContextManager[Any] = self._parallel.no_sync()
        return no_sync

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of ``loss``, a scalar; after the last micro-batch the gradients of all ranks are in.

        Raises:
            LostRankError: another rank is gone.
        """
        if self._parallel is not None:
            loss = _ReachAll.apply(loss, *self._parameters)  # type: ignore[no-untyped-call]
        with lost_rank_explained():
            loss.backward()  # type: ignore[no-untyped-call]

    def used(self) -> list[float]:
        """1 for each parameter that this rank had a gradient for since ``clear``, else 0; empty for a rank alone."""
        return [] if self._parallel is None else [float(used) for used in self._used]

    def drop_unused(self, used: Sequence[float]) -> None:
        """Takes the gradient from parameters that no rank used, given the sums of ``used`` over the ranks."""
        if self._parallel is not None:
            for parameter, count in zip(self._parameters, used, strict=True):
                if not count:
                    parameter.grad = None

    def _noted(self, index: int) -> Callable[[Tensor], None]:
        def note(parameter: Tensor) -> None:
            if parameter.grad is not None:  # called for parameters that were only reached, too
                self._used[index] = True

        return note


class _ReachAll(torch.autograd.Function):
    """The identity of its first input, whose backward pass also reaches the others, with no gradient for them."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        """A scalar loss () and any number of parameters, each of its own shape (N, ...) -> the loss."""
        ctx.count = len(parameters)
        return loss.view_as(loss)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (gradient, *[None] * ctx.count)


def _data_parallel(model: nn.Module) -> DistributedDataParallel:
    """Gradients live in the buckets that are sent; weights are given to all ranks once, by ``Ranks.share_weights``."""
    return DistributedDataParallel(model, init_sync=False, gradient_as_bucket_view=True, forward_sync_buffers=False)


def _summed(bucket: Any) -> Future[Tensor]:
    """Sums a bucket (``torch.distributed.GradBucket``) over all ranks."""
    future: Future[Any] = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def _summed_in_bf16(bucket: Any) -> Future[Tensor]:
    """Sums a bucket that travels as bfloat16: half the bytes, and gradients of 8 bits."""
    buffer = bucket.buffer()
    future: Future[Any] = dist.all_reduce(buffer.bfloat16(), async_op=True).get_future()
    return future.then(lambda done: buffer.copy_(done.value()[0]))


_COMPRESSIONS: dict[str, Callable[[Any], Future[Tensor]]] = {
    "none": _summed,
    "bf16": _summed_in_bf16,
}
