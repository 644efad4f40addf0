"""What a launcher starts again goes on from the last checkpoint: torchrun with two agents on one host."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore
from toy_runs import losses, ranks_run, weights

from vlrun.engine import claim as claims
from vlrun.engine.claim import CLAIM, claimed
from vlrun.engine.restarts import JOB_VARIABLE, fresh_store, job_name
from vlrun.engine.run_folder import run_folder_of
from vlrun.errors import LostRankError
from vlrun.plugins.manager import Plugins

RUN = ("run", "toy.yaml", "train.checkpoint_every=2")


class Agents:
    """Two launchers that meet on the loopback interface; the first is there before the second starts."""

    def __init__(self, world: Path, environment: dict[str, str], *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
        command += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--monitor-interval", "0.2", *options, "-m", "vlrun", *RUN]
        self.processes = []
        for number in range(2):
            log = (world / f"agent{number}.log").open("w")
            self.processes.append(subprocess.Popen(command, cwd=world, env=environment, stdout=log, stderr=log))
            log.close()
            while not number and self.processes[0].poll() is None:
                with socket.socket() as client:
                    if not client.connect_ex(("127.0.0.1", port)):
                        break
                time.sleep(0.05)

    def wait(self) -> list[int]:
        try:
            return [process.wait(timeout=150) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()


@pytest.mark.slow
def test_after_a_killed_rank_all_go_on_from_the_last_checkpoint_bit_for_bit(
    world: Path, fragile: dict[str, str], plugins: Plugins
) -> None:
    fragile["FRAGILE"] = f"6,1,rank,{fragile['MARKER']}"
    statuses = Agents(world, fragile, "--nnodes", "2", "--max-restarts", "3").wait()
    assert statuses == [0, 0], (world / "agent0.log").read_text()
    assert Path(fragile["MARKER"]).exists(), "a rank was killed"
    (folder,) = (world / "runs" / "toy").glob("[0-9]*")
    whole = ranks_run(world, plugins, 2)[0][0]
    assert losses(folder) == losses(whole)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(folder).items())
    writers = {line.split()[0] for line in Path(fragile["FRAGILE_LOG"]).read_text().splitlines()}
    assert writers == {"0"}, "only the main rank writes in the run folder"


@pytest.mark.slow
def test_after_a_killed_agent_the_other_goes_on_alone(world: Path, fragile: dict[str, str], plugins: Plugins) -> None:
    fragile["FRAGILE"] = f"6,1,agent,{fragile['MARKER']}"
    options = ("--nnodes", "1:2", "--max-restarts", "3", "--rdzv-conf", "last_call_timeout=15")
    statuses = Agents(world, fragile, *options).wait()
    assert statuses == [0, -9], (world / "agent0.log").read_text()
    (folder,) = (world / "runs" / "toy").glob("[0-9]*")
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["processes"], status["step"]) == ("done", 1, 9)
    whole = losses(ranks_run(world, plugins, 2)[0][0])
    assert len(losses(folder)) == len(whole)
    assert losses(folder)[:4] == whole[:4], "what was trained together stays"
    assert losses(folder)[4:] != whole[4:], "dropout of the rest is that of one process"


def test_each_start_has_keys_of_its_own() -> None:
    store, seconds = HashStore(), timedelta(seconds=20)
    kept: list[Any] = []

    def join(rank: int, size: int) -> None:
        kept.append((rank, fresh_store(store, rank, size, seconds)))

    for start, size in enumerate((3, 3, 2, 1)):
        kept.clear()
        threads = [threading.Thread(target=join, args=(rank, size)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stores = dict(kept)
        assert not stores[0].check(["where"]), "the key of an earlier start"
        stores[size - 1].set("where", str(start))
        assert {stores[rank].get("where") for rank in range(size)} == {str(start).encode()}


def test_a_rank_that_does_not_come_is_lost() -> None:
    with pytest.raises(LostRankError, match="not all of 2 processes came within 0 s"):
        fresh_store(HashStore(), 0, 2, timedelta(seconds=0.2))


def test_a_job_keeps_its_name_over_restarts_and_no_two_jobs_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert job_name() is None
    assert job_name(HashStore()) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    store = HashStore()
    first = job_name(store)
    assert first is not None
    assert job_name(store) == first
    assert job_name(HashStore()) != first
    monkeypatch.setenv(JOB_VARIABLE, "slurm-7")
    assert job_name(store) == "slurm-7"


def test_a_job_finds_its_own_run_and_not_the_newest(tmp_path: Path) -> None:
    for stamp, job in (("20260101-000000-a", "one"), ("20260102-000000-b", None), ("20260103-000000-c", "two")):
        folder = tmp_path / "toy" / stamp
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps({"job": job}))
    found = run_folder_of(tmp_path, "toy", "one")
    assert found is not None
    assert found.path.name == "20260101-000000-a"
    assert run_folder_of(tmp_path, "toy", "three") is None


def test_a_restarted_job_waits_until_its_lost_host_counts_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = {"host": "a-host-that-died", "process": 1, "since": "2026-01-01T00:00:00+00:00", "mark": "x"}
    (tmp_path / CLAIM).write_text(json.dumps(owner))
    monkeypatch.setattr(claims, "_STALE_SECONDS", 1.0)
    monkeypatch.setattr(claims, "_PAUSE_SECONDS", 0.05)
    started = time.monotonic()
    with claimed(tmp_path, waits=True):
        assert json.loads((tmp_path / CLAIM).read_text())["host"] == socket.gethostname()
    assert 0.5 < time.monotonic() - started < 20
