"""``--nproc N``: starts this very command once per process, through torch's elastic launcher."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, TypeAlias

from vlrun.cpus import usable_cpus
from vlrun.engine.parent import end_with_parent
from vlrun.engine.stopping import (
    STOP_SIGNALS,
    comes_again,
    handled_by,
    ignore_stop_signals,
    is_from_terminal,
    leave_if_stopped_early,
    say_stopped_early,
    stop_at_once_on_signals,
)
from vlrun.errors import INTERRUPTED, DistributedError, StoppedOnRequest
from vlrun.foreign.printing import say

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

_STOPPED = (StoppedOnRequest.exit_status, INTERRUPTED)

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
        StoppedOnRequest: a stop signal has come before.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    leave_if_stopped_early()
    received = set() if received is None else received
    logging.disable(logging.ERROR)  # the ranks say what went wrong; the launcher's own traceback only hides it
    _start_quiet_resource_tracker()
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
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),  # a killed launcher would leave its folder of logs
    )

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.add(number)
        if not multiprocessing.active_children():
            if comes_again(number, frame):
                return
            raise _NothingBegun
        if not is_from_terminal(number):
            _all_children(number)

    try:
        with handled_by(pass_on), _held_back_in_children():
            elastic_launch(config, _rank_main)(main, list(arguments))
    except _NothingBegun:
        return say_stopped_early(received)
    except ChildFailedError as error:
        return _exit_status(error, received)
    except RendezvousError as error:
        where = hosts.endpoint if hosts else "this machine"
        raise DistributedError(f"the launchers did not meet at {where}: {error}") from error
    return 0


class _NothingBegun(BaseException):
    """A stop signal has come before the processes are there."""


def _start_quiet_resource_tracker() -> None:
    """Starts what removes the semaphores of a killed launcher, so that it does not call them leaked."""
    from multiprocessing.resource_tracker import ensure_running

    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"
    try:
        ensure_running()
    finally:
        os.environ.pop("PYTHONWARNINGS")
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


@contextmanager
def _held_back_in_children() -> Iterator[None]:
    """Started processes begin with stop signals blocked; ``_rank_main`` lets them in once it can handle them.

    The main thread blocks them for its children. A thread of its own lets them in, so that handlers run as before.
    """
    done, ready = threading.Event(), threading.Event()

    def let_in() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        ready.set()
        done.wait()

    thread = threading.Thread(target=let_in, name="stop-signals", daemon=True)
    thread.start()
    ready.wait()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        done.set()
        thread.join()


def _all_children(number: int) -> None:
    for child in multiprocessing.active_children():
        if child.pid:
            os.kill(child.pid, number)


def _rank_main(main: Command, arguments: list[str]) -> None:
    end_with_parent()
    try:
        with stop_at_once_on_signals():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # see _held_back_in_children
            status = main(arguments)
    except StoppedOnRequest as stopped:
        status = stopped.exit_status
    except KeyboardInterrupt:
        status = INTERRUPTED
    ignore_stop_signals()
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # an exit status needs no traceback


def _exit_status(error: ChildFailedError, received: Collection[int]) -> int:
    """The status of the rank that failed first; one that was killed is a distributed failure."""
    failures = sorted(error.failures.items(), key=lambda item: (item[1].exitcode <= 0, item[1].timestamp))
    codes = [failure.exitcode for _, failure in failures]
    if received and (stopped := [code for code in codes if code in _STOPPED]):
        return int(stopped[0])  # the others may have missed one that had left already
    rank, code = failures[0][0], codes[0]
    if code > 0:
        return int(code)
    if -code in received:  # it had just begun
        return say_stopped_early(received)
    message = f"rank {rank} was killed by signal {-code}; the others were stopped. --resume continues."
    say(f"{DistributedError.__name__}: {message}", to=sys.stderr)
    return DistributedError.exit_status
