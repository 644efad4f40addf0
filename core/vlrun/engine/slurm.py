"""``--slurm``: submits this very command as a batch job, which goes on where it was after each time limit.

Each node gets one task, which starts the processes of its node as ``--nproc`` does.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrun.engine.launch import Command, Hosts, launch
from vlrun.engine.restarts import JOB_VARIABLE
from vlrun.errors import MachineError, RunnerError, StoppedOnRequest, UsageError
from vlrun.foreign.printing import plain, say

_OURS = ("ntasks", "ntasks-per-node", "array", "signal", "output", "error", "requeue", "open-mode", "job-name")
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
_SIGNAL = "USR1"
_SIGNAL_SECONDS = 120  # a step, or a batch of an evaluation, and a checkpoint take less
_MOST_REQUEUES = 1000  # each one has got further
_FIRST_PORT, _PORTS = 20000, 10000


@dataclass(frozen=True)
class JobOptions:
    """What to ask the batch system for.

    Attributes:
        minutes: until the time limit; nodes: how many machines.
        is_local: run here, under submitit's local executor, as if it were a cluster.
        others: further options of sbatch, by their names.
    """

    minutes: int
    nodes: int = 1
    is_local: bool = False
    others: dict[str, Any] = field(default_factory=dict)


def parse_job_options(arguments: Sequence[str]) -> JobOptions:
    """Parses ``key=value`` arguments, which are the long options of sbatch, and ``cluster=local``.

    Raises:
        UsageError: one of them is not such an option, or cannot be chosen.
    """
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = key.removeprefix("--").replace("_", "-")
        if not equals or not value or not re.fullmatch(r"[a-z][a-z-]*", key):
            raise UsageError(
                f"--slurm {argument}: write options of sbatch as key=value, such as time=12:00:00; overrides of the "
                "experiment stand before --slurm"
            )
        if key in _OURS:
            raise UsageError(f"--slurm {argument}: vlrun sets {key} itself")
        given[key] = value
    if "time" not in given:
        raise UsageError("--slurm: say how long the job may run until it is started again, such as time=12:00:00")
    nodes, cluster = given.pop("nodes", "1"), given.pop("cluster", "slurm")
    if not nodes.isdecimal() or not int(nodes):
        raise UsageError(f"--slurm nodes={nodes}: give a number of nodes")
    if cluster not in ("slurm", "local") or (cluster == "local" and int(nodes) > 1):
        raise UsageError(f"--slurm cluster={cluster}: slurm, or local with one node")
    minutes = minutes_of(given.pop("time"))
    others = {key: True if value == "true" else value for key, value in given.items()}
    return JobOptions(minutes, int(nodes), cluster == "local", others)


def minutes_of(time: str) -> int:
    """Minutes, rounded up, of a time as sbatch reads it: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``.

    Raises:
        UsageError: it is no such time.
    """
    match = _TIME.fullmatch(time)
    parts = [int(part) for part in match["parts"].split(":")] if match else []
    days = int(match["days"] or 0) if match else 0
    begins_with_hours = len(parts) == 3 or (match is not None and match["days"] is not None)
    hours, minutes, seconds = ((*parts, 0, 0) if begins_with_hours else (0, *parts, 0, 0))[:3]
    total = -(-(((days * 24 + hours) * 60 + minutes) * 60 + seconds) // 60)
    if not total:
        raise UsageError(f"--slurm time={time}: write it as sbatch reads it, such as 90, 12:00:00 or 2-00:00:00")
    return total


def submit(task: BatchTask, options: JobOptions, name: str, folder: Path) -> list[str]:
    """Submits a task; returns lines that say what it is called, where its output goes, and how to cancel it.

    Raises:
        UsageError: a name has a line break, or another character that has no place in a batch script.
        MachineError: submitit or Slurm is not there, or refuses the job.
    """
    for text in (name, str(folder), *map(str, options.others.values())):
        if plain(text) != text:  # what follows a line break in it would be run as a command
            raise UsageError(f"--slurm: {text!r} would stand in the batch script and holds a control character")
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = _SIGNAL  # the job reads it when it imports submitit
    try:
        from submitit import JobEnvironment, LocalExecutor, SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError as error:
        raise MachineError("--slurm needs the package submitit: pip install 'vlrun[slurm]'") from error
    JobEnvironment.USR_SIG = _SIGNAL  # it may have been imported before
    try:
        if options.is_local:
            executor: Any = LocalExecutor(folder, max_num_timeout=_MOST_REQUEUES)
            executor.update_parameters(timeout_min=options.minutes, signal_delay_s=_SIGNAL_SECONDS)
        else:
            executor = SlurmExecutor(folder, max_num_timeout=_MOST_REQUEUES)
            cpus = options.others.get("cpus-per-task")
            executor.update_parameters(
                job_name=name,
                time=options.minutes,
                nodes=options.nodes,
                ntasks_per_node=1,
                signal_delay_s=_SIGNAL_SECONDS,
                wckey=None,
                srun_args=[f"--cpus-per-task={cpus}"] if cpus else [],  # a step does not inherit it from its job
                additional_parameters={"requeue": True, **options.others},
            )
        job = executor.submit(task)
    except RuntimeError as error:  # no srun
        if isinstance(error, FailedSubmissionError | FailedJobError):
            raise MachineError(f"--slurm: sbatch refuses the job: {error}") from error
        raise MachineError("--slurm: there is no Slurm here (srun is not found); use a login node") from error
    logs = folder / f"{job.job_id}_0_log"
    cancel = f"kill {job.job_id}" if options.is_local else f"scancel {job.job_id}"
    return [
        f"submitted as job {job.job_id}; it continues by itself after each time limit",
        f"  output: {logs}.out",
        f"  errors: {logs}.err",
        f"  cancel: {cancel}",
    ]


@dataclass(frozen=True)
class BatchTask:
    """What one task of the job does: it starts the processes of its node.

    Attributes:
        arguments: of the command, as the user gave them.
        num_processes: on each node.
    """

    main: Command
    arguments: Sequence[str]
    num_processes: int

    def __call__(self) -> None:
        """Runs the command; at the time limit, once a checkpoint is there, it has the job started again.

        Raises:
            SystemExit: with the exit status of the command.
        """
        from submitit import JobEnvironment

        job = JobEnvironment()
        os.environ[JOB_VARIABLE] = name = f"{job.cluster}-{job.job_id}"
        port = _FIRST_PORT + zlib.crc32(name.encode()) % _PORTS
        hosts = Hosts(job.num_nodes, f"{job.hostnames[0]}:{port}", name) if job.num_nodes > 1 else None
        received: set[int] = set()
        try:
            status = launch(self.main, self.arguments, self.num_processes, hosts, received)
        except RunnerError as error:
            say(f"{type(error).__name__}: {error}", to=sys.stderr)
            status = error.exit_status
        if status == StoppedOnRequest.exit_status and not received & {signal.SIGTERM, signal.SIGINT}:
            if job.global_rank:
                return  # the task of the first node requeues the job; a status other than 0 might end it before
            say("the job is put into the queue again and goes on from its checkpoint", to=sys.stderr)
            sys.stderr.flush()
            os.kill(os.getpid(), getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))  # submitit's handler requeues
        if status:
            raise SystemExit(status)

    def checkpoint(self) -> Any:
        """What submitit runs when the job starts again: the same, as a job continues its own run."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
