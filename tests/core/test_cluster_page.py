"""The commands of docs/cluster.md can be typed, and its sbatch file requeues what the time limit stops."""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from vlrun.cli.parser import make_parser
from vlrun.config.experiment import load_experiment
from vlrun.engine.slurm import parse_job_options

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)
(SCRIPT,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def check_runner(words: list[str]) -> None:
    """Parses the words after ``runner``, and loads the experiment as they have it."""
    parsed, overrides = make_parser(words).parse_known_args(words)
    assert load_experiment(ROOT / parsed.experiment, [*parsed.overrides, *overrides]).name
    if parsed.slurm is not None:
        assert parse_job_options(parsed.slurm).minutes


def check_torchrun(words: list[str]) -> None:
    """Parses the words after ``torchrun``."""
    parsed = get_args_parser().parse_args(words)
    assert (parsed.module, parsed.training_script) == (True, "vlrun")
    check_runner(parsed.training_script_args)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_typed(command: str) -> None:
    program, *words = shlex.split(command)
    {"runner": check_runner, "torchrun": check_torchrun}[program](words)


def test_the_torchrun_of_the_file_can_be_typed() -> None:
    (command,) = re.findall(r"(torchrun .*?) &$", SCRIPT.replace("\\\n", " "), re.MULTILINE)
    for name, value in (("$SLURM_NNODES", "2"), ("$SLURM_JOB_ID", "77"), ("$first", "node1")):
        command = command.replace(name, value)
    check_torchrun(shlex.split(command)[1:])


@pytest.mark.parametrize(("stops", "status"), [(True, 1), (False, 9)])
def test_the_file_requeues_the_job_at_its_time_limit_alone(tmp_path: Path, stops: bool, status: int) -> None:
    stubs = {
        "srun": 'shift; exec "$@"',
        "scontrol": f'[ "$1" = show ] && echo node1 || echo "$@" >> {tmp_path}/asked',
        "torchrun": f'trap "echo checkpoint >> {tmp_path}/asked; exit 1" TERM; echo "$VLRUN_JOB" > {tmp_path}/started; '
        + ("while :; do sleep 0.05; done" if stops else "exit 9"),
    }
    for name, script in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    (tmp_path / "job.sh").write_text(SCRIPT)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "4", "SLURM_JOB_NODELIST": "node[1-2]"}
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    job = subprocess.Popen(["bash", str(tmp_path / "job.sh")], env=environment)
    started = tmp_path / "started"
    while job.poll() is None and not (started.exists() and started.read_text()):
        time.sleep(0.02)
    assert started.read_text() == "slurm-77\n"
    if stops:
        time.sleep(0.2)  # until the script waits
        job.send_signal(signal.SIGUSR1)
    ended = job.wait(timeout=30)
    asked = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
    if stops:
        assert asked == ["checkpoint", "requeue 77"]
    else:
        assert (asked, ended) == ([], status)
