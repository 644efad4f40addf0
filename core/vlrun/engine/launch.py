"""``--nproc N``: starts this very command once per process, through torch's elastic launcher; stopping on request.

A stop signal is remembered, and training ends at the next step with a checkpoint.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from vlrun.cpus import usable_cpus
from vlrun.errors import DistributedError, StoppedOnRequest

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from vlrun.engine.ranks import Ranks

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))

Command: TypeAlias = Callable[[Sequence[str]], int]
"""The command line as a function, from arguments to exit status; importable by name, so that it can be pickled."""


@dataclass(frozen=True)
class Hosts:
    """The machines of a job; on each of them a launcher starts the processes.

    Attributes:
        endpoint: ``host:port`` of the first, where the launchers meet.
        job: name of the job.
    """

    number: int
    endpoint: str
    job: str


def launch(
    main: Command,
    arguments: Sequence[str],
    num_processes: int,
    hosts: Hosts | None = None,
    received: set[int] | None = None,
) -> int:
    """Runs ``main(arguments)`` in ``num_processes`` processes on this machine and returns their exit status.

    Each sees torchrun's environment: ``torchrun --nproc-per-node N -m vlrun ARGUMENTS`` does the same.

    Args:
        hosts: all machines of the job, if there are several.
        received: takes the stop signals that arrive.

    Raises:
        DistributedError: the launchers of the hosts did not meet.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # the ranks say what went wrong; the launcher's own traceback only hides it
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cpus() // num_processes)))
    config = LaunchConfig(
        min_nodes=hosts.number if hosts else 1,
        max_nodes=hosts.number if hosts else 1,
        nproc_per_node=num_processes,
        rdzv_backend="c10d",
        rdzv_endpoint=hosts.endpoint if hosts else "localhost:0",
        run_id=hosts.job if hosts else "",
        max_restarts=0,
        monitor_interval=0.2,
        signals_to_handle="SIGHUP,SIGQUIT",  # the stop signals are ours: ranks finish their step and write a checkpoint
    )

    def pass_on(number: int) -> None:
        if received is not None:
            received.add(number)
        _all_children(number)

    with stop_signals_passed_to(pass_on):
        try:
            elastic_launch(config, _rank_main)(main, list(arguments))
        except ChildFailedError as error:
            return _exit_status(error)
        except RendezvousError as error:
            where = hosts.endpoint if hosts else "this machine"
            raise DistributedError(f"the launchers did not meet at {where}: {error}") from error
    return 0


class StopRequest:
    """Set by SIGTERM, SIGUSR1 (batch systems send it before the time is up) or the first Ctrl-C."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def receive(self, number: int, _: FrameType | None) -> None:
        """Handles a signal."""
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C means now
        self.signal = signal.Signals(number)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Collects stop signals while it is open; none outside the main thread, where no handler can be set."""
    request = StopRequest()
    with _handled_by(request.receive):
        yield request


@contextmanager
def stop_signals_passed_to(send: Callable[[int], None]) -> Iterator[None]:
    """Passes stop signals on to started processes, which then finish their step, and keeps this one alive."""

    def forward(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty():
            return  # the terminal has sent Ctrl-C there already
        send(number)

    with _handled_by(forward):
        yield


def leave_if_asked(ranks: Ranks, stop: StopRequest, during: str = "an evaluation") -> None:
    """Stops the current work, on all ranks together, once a signal has reached any of them.

    Raises:
        StoppedOnRequest: a signal came; the caller must make sure that nothing is lost.
    """
    if ranks.any(bool(stop)):
        raise StoppedOnRequest(f"stopped on request during {during}; run again with --resume to continue")


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    try:
        before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _all_children(number: int) -> None:
    for child in multiprocessing.active_children():
        if child.pid:
            os.kill(child.pid, number)


def _rank_main(main: Command, arguments: list[str]) -> None:
    if status := main(arguments):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # an exit status needs no traceback


def _exit_status(error: ChildFailedError) -> int:
    """The status of the rank that failed first; one that was killed is a distributed failure."""
    rank, failure = min(error.failures.items(), key=lambda item: (item[1].exitcode <= 0, item[1].timestamp))
    if failure.exitcode > 0:
        return int(failure.exitcode)
    message = f"rank {rank} was killed by signal {-failure.exitcode}; the others were stopped. --resume continues."
    print(f"{DistributedError.__name__}: {message}", file=sys.stderr)  # noqa: T201 - the launcher has no reporter
    return DistributedError.exit_status
