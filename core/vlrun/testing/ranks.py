"""Several ranks in one test."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from vlrun.engine.ranks import Ranks


def run_ranks(body: Callable[[Ranks], Any], folder: Path, world_size: int = 2) -> list[Any]:
    """Runs ``body`` on ``world_size`` ranks on the CPU and returns their results by rank.

    The ranks are forked: with torch imported that takes a fraction of a second, and spawning takes several.

    Raises:
        AssertionError: a rank failed; the message holds its traceback.
    """
    torch.optim.SGD([nn.Parameter(torch.zeros(1))])  # so that its slow imports happen before the fork
    context = mp.get_context("fork")
    results = context.SimpleQueue()
    store = folder / "ranks-store"
    store.unlink(missing_ok=True)
    children = [
        context.Process(target=_rank, args=(rank, world_size, store, body, results)) for rank in range(world_size)
    ]
    for child in children:
        child.start()
    collected = dict(results.get() for _ in children)
    for child in children:
        child.join(timeout=60)
    failures = [str(value) for failed, value in collected.values() if failed]
    assert not failures, "\n".join(failures)
    return [pickle.loads(collected[rank][1]) for rank in range(world_size)]  # noqa: S301 - of our own children


def _rank(rank: int, world_size: int, store: Path, body: Callable[[Ranks], Any], results: Any) -> None:
    torch.set_num_threads(1)  # OpenMP threads do not survive a fork
    meeting = dist.FileStore(str(store), world_size)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=world_size)
    try:
        value = body(Ranks(rank, world_size, torch.device("cpu"), dist.new_group(backend="gloo"), meeting))
        results.put((rank, (False, pickle.dumps(value))))  # by value: tensors in shared memory go with their rank
        dist.barrier()  # a rank that leaves early aborts the others
    except BaseException:
        results.put((rank, (True, traceback.format_exc())))
    finally:
        dist.destroy_process_group()
