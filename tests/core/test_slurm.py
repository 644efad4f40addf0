"""``--slurm``: what is asked of sbatch, and a job that goes on where its time limit stopped it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_runs import losses, ranks_run, weights

from vlrun.engine.slurm import JobOptions, minutes_of, parse_job_options
from vlrun.errors import UsageError
from vlrun.plugins.manager import Plugins

pytest.importorskip("submitit")
RUN = (sys.executable, "-m", "vlrun", "run", "toy.yaml", "train.checkpoint_every=2")


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("90:01", 91), ("12:00:00", 720), ("2-00", 2880), ("1-02:30", 1590), ("1-00:00:30", 1441)],
)
def test_a_time_is_read_as_sbatch_reads_it(time: str, minutes: int) -> None:
    assert minutes_of(time) == minutes


@pytest.mark.parametrize("time", ["0", "soon", "1:2:3:4", "", "1-", "-5"])
def test_what_is_no_time_is_refused(time: str) -> None:
    with pytest.raises(UsageError, match="write it as sbatch reads it"):
        minutes_of(time)


def test_options_of_sbatch_are_taken_by_their_names() -> None:
    given = ["time=1:00:00", "nodes=2", "--partition=gpu", "gpus_per_node=4", "exclusive=true"]
    others = {"partition": "gpu", "gpus-per-node": "4", "exclusive": True}
    assert parse_job_options(given) == JobOptions(60, 2, is_local=False, others=others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say how long"),
        (["time=5", "train.epochs=2"], "overrides of the experiment stand before --slurm"),
        (["time=5", "partition"], "write options of sbatch as key=value"),
        (["time=5", "array=0-3"], "vlrun sets array itself"),
        (["time=5", "nodes=many"], "give a number of nodes"),
        (["time=5", "cluster=local", "nodes=2"], "local with one node"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_job_options(arguments)


def stub(folder: Path, name: str, script: str) -> None:
    """An executable of this name that comes first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(stat.S_IRWXU)


@pytest.mark.slow
def test_a_job_is_submitted_with_what_was_asked_for(world: Path, fragile: dict[str, str]) -> None:
    stub(world / "bin", "srun", "exit 1")
    stub(world / "bin", "sbatch", f'cp "$1" {world}/submitted; echo Submitted batch job 77')
    fragile["PATH"] = f"{world / 'bin'}{os.pathsep}{os.environ['PATH']}"
    options = ["time=12:00:00", "nodes=2", "partition=gpu", "gpus-per-node=4", "cpus-per-task=32"]
    done = subprocess.run(
        [*RUN, "--nproc", "4", "--slurm", *options], cwd=world, env=fragile, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    script = (world / "submitted").read_text()
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.MULTILINE))
    expected = {"job-name": "toy", "time": "720", "nodes": "2", "ntasks-per-node": "1", "signal": "USR1@120"}
    expected |= {"partition": "gpu", "gpus-per-node": "4", "cpus-per-task": "32", "requeue": "", "open-mode": "append"}
    assert expected.items() <= asked.items()
    assert "wckey" not in asked
    assert re.search(r"^srun .*--cpus-per-task=32 .*submitit\.core\._submit", script, re.MULTILINE)
    folder = world / "runs" / "toy" / "slurm"
    assert f"output: {folder}/77_0_log.out" in done.stdout
    assert "cancel: scancel 77" in done.stdout
    assert (folder / "77_submitted.pkl").is_file()
    stub(world / "bin", "sbatch", "echo Invalid partition >&2; exit 1")
    refused = subprocess.run([*RUN, "--slurm", *options], cwd=world, env=fragile, capture_output=True, text=True)  # noqa: PLW1510
    assert refused.returncode == 7
    assert "sbatch refuses the job" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_job_that_its_time_limit_stops_goes_on_by_itself(
    world: Path, fragile: dict[str, str], plugins: Plugins
) -> None:
    fragile["FRAGILE"] = f"4,0,stop,{world / 'stopped'}"
    command = [*RUN, "--nproc", "2", "--slurm", "time=1:00:00", "cluster=local"]
    done = subprocess.run(command, cwd=world, env=fragile, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    log = Path(re.findall(r"errors: (.*)", done.stdout)[0])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(log.parent.glob("*_result.pkl")):
        time.sleep(0.1)
    text = log.read_text()
    assert (world / "stopped").exists()
    assert "put into the queue again" in text
    (folder,) = (world / "runs" / "toy").glob("[0-9]*")
    assert '"status": "done"' in (folder / "status.json").read_text(), text
    whole = ranks_run(world, plugins, 2, "train.checkpoint_every=2")[0][0]
    assert losses(folder) == losses(whole)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(folder).items())
