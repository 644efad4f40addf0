"""``--nproc N``: starts this very command once per process, through torch's elastic launcher."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from vlrun.errors import DistributedError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def launch(arguments: Sequence[str], num_processes: int) -> int:
    """Runs ``runner ARGUMENTS`` in ``num_processes`` processes on this machine and returns their exit status.

    Each sees torchrun's environment: ``torchrun --nproc-per-node N -m vlrun ARGUMENTS`` does the same.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # the ranks say what went wrong; the launcher's tracebacks of itself only hide it
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        signals_to_handle="SIGHUP,SIGQUIT",  # the stop signals are ours: ranks finish their step and write a checkpoint
    )
    with _stop_passed_on():
        try:
            elastic_launch(config, _rank_main)(list(arguments))
        except ChildFailedError as error:
            return _exit_status(error)
    return 0


def _rank_main(arguments: list[str]) -> None:
    from vlrun.cli import main

    if status := main(arguments):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # no traceback for a status that is not an exception


@contextmanager
def _stop_passed_on() -> Iterator[None]:
    """Passes stop signals on to the ranks and goes on waiting for them."""

    def forward(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty():
            return  # the terminal has sent Ctrl-C to the ranks already
        for child in multiprocessing.active_children():
            if child.pid:
                os.kill(child.pid, number)

    before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_status(error: ChildFailedError) -> int:
    """The status of the rank that failed first; one that was killed is a distributed failure."""
    rank, failure = min(error.failures.items(), key=lambda item: (item[1].exitcode <= 0, item[1].timestamp))
    if failure.exitcode > 0:
        return int(failure.exitcode)
    message = f"rank {rank} was killed by signal {-failure.exitcode}; the others were stopped. --resume continues."
    print(f"{DistributedError.__name__}: {message}", file=sys.stderr)  # noqa: T201 - the launcher has no reporter
    return DistributedError.exit_status
