"""``--slurm``: what is asked of sbatch, and a job that goes on where its time limit stopped it."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_runs import experiment, losses, ranks_run, weights

from vlrun.cli import main
from vlrun.engine.slurm import BatchTask, JobOptions, minutes_of, parse_job_options, submit
from vlrun.errors import MachineError, UsageError
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment

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


@pytest.mark.parametrize("where", ["name", "folder", "option"])
def test_no_line_of_a_batch_script_comes_from_a_name(where: str, tmp_path: Path) -> None:
    """Quoted or not, what stands on a line of its own is a command of the script."""
    texts = {"name": "toy", "folder": "runs", "option": "gpu", where: "x\ntouch was-here\n#"}
    options = JobOptions(5, others={"partition": texts["option"]})
    with pytest.raises(UsageError, match="would stand in the batch script and holds a control character"):
        submit(BatchTask(main, [], 1), options, texts["name"], tmp_path / texts["folder"])


def stub(folder: Path, name: str, script: str) -> None:
    """An executable of this name that comes first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(stat.S_IRWXU)


def test_a_job_is_submitted_with_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path / "bin", "srun", "exit 1")
    stub(tmp_path / "bin", "sbatch", f'cp "$1" {tmp_path}/submitted; echo Submitted batch job 77')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "")
    given = ["time=12:00:00", "nodes=2", "partition=gpu", "gpus-per-node=4", "cpus-per-task=32"]
    task, options = BatchTask(main, ["run", "toy.yaml"], 4), parse_job_options(given)
    lines = submit(task, options, "toy", tmp_path / "slurm")
    script = (tmp_path / "submitted").read_text()
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.MULTILINE))
    expected = {"job-name": "toy", "time": "720", "nodes": "2", "ntasks-per-node": "1", "signal": "USR1@120"}
    expected |= {"partition": "gpu", "gpus-per-node": "4", "cpus-per-task": "32", "requeue": "", "open-mode": "append"}
    assert expected.items() <= asked.items()
    assert "wckey" not in asked
    assert re.search(r"^srun .*--cpus-per-task=32 .*submitit\.core\._submit", script, re.MULTILINE)
    assert f"  output: {tmp_path}/slurm/77_0_log.out" in lines
    assert "  cancel: scancel 77" in lines
    assert (tmp_path / "slurm" / "77_submitted.pkl").is_file()
    stub(tmp_path / "bin", "sbatch", "echo Invalid partition >&2; exit 1")
    with pytest.raises(MachineError, match="sbatch refuses the job"):
        submit(task, options, "toy", tmp_path / "slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="there is no Slurm here"):
        submit(task, options, "toy", tmp_path / "slurm")


TASK = """
from vlrun.cli import main
from vlrun.engine.slurm import BatchTask
BatchTask(main, ["run", "toy.yaml", "--slurm", "time=60", "nodes=2"], 1)()
"""


@pytest.mark.slow
def test_the_tasks_of_two_nodes_train_together(world: Path, fragile: dict[str, str], plugins: Plugins) -> None:
    job = {"SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": str(world), "SLURM_JOB_ID": str(os.getpid())}
    job |= {"SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "localhost", "SLURM_LOCALID": "0"}
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", TASK],
            cwd=world,
            env={**fragile, **job, "SLURM_NODEID": node, "SLURM_PROCID": node},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in "01"
    ]
    errors = [node.communicate(timeout=200)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    (folder,) = (world / "runs" / "toy").glob("[0-9]*")
    status = json.loads((folder / "status.json").read_text())
    assert (status["processes"], status["job"]) == (2, f"slurm-{os.getpid()}")
    assert losses(folder) == losses(ranks_run(world, plugins, 2)[0][0])


@pytest.mark.slow
def test_a_job_that_its_time_limit_stops_goes_on_by_itself(
    world: Path, fragile: dict[str, str], plugins: Plugins
) -> None:
    fragile["FRAGILE"] = f"4,0,stop,{world / 'stopped'}"
    command = [*RUN, "--slurm", "time=1:00:00", "cluster=local"]
    done = subprocess.run(command, cwd=world, env=fragile, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    log = Path(re.findall(r"errors: (.*)", done.stdout)[0])
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not list(log.parent.glob("*_result.pkl")):
        time.sleep(0.1)
    text = log.read_text()
    assert (world / "stopped").exists()
    assert "put into the queue again" in text
    (folder,) = (world / "runs" / "toy").glob("[0-9]*")
    assert '"status": "done"' in (folder / "status.json").read_text(), text
    whole = run_experiment(experiment(world, plugins, runs_root="whole"), plugins=plugins).folder
    assert losses(folder) == losses(whole)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(folder).items())
