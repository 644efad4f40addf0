"""One process at a time writes a run folder; one that is gone keeps nobody out."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import experiment, stop_after

from vlrun.engine import claim as claims
from vlrun.engine.claim import CLAIM, claimed, refuse_if_claimed
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import OpenedRun, RunFolder
from vlrun.errors import DataError, StoppedOnRequest
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs.again import evaluate_run, predict_run
from vlrun.runs.run import run_experiment

HOLDER = """
import os, sys, time
from pathlib import Path
from vlrun.engine.claim import claimed
with claimed(Path(sys.argv[1])):
    if not os.fork():
        print(os.getpid(), flush=True)  # by now the worker has let go of the lock
    time.sleep(600)
"""


class Holder:
    """Another process at work in a folder, with a forked worker of its own, as data loaders have."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", HOLDER, str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.worker = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.kill()
        os.kill(self.worker, signal.SIGKILL)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    held = Holder(tmp_path)
    yield held
    held.end()


def write_owner(folder: Path, age: float = 0.0, **changes: Any) -> None:
    owner = {"host": socket.gethostname(), "process": os.getpid(), "since": "2026-01-01T00:00:00+00:00", "mark": "x"}
    (folder / CLAIM).write_text(json.dumps({**owner, **changes}))
    then = time.time() - age
    os.utime(folder / CLAIM, (then, then))


def gone() -> int:
    """The number of a process that has ended."""
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    assert process.pid is not None
    return process.pid


def test_the_second_is_refused_and_told_of_the_first(tmp_path: Path, holder: Holder) -> None:
    who = rf"process {holder.process.pid} on {re.escape(socket.gethostname())}, since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d"
    started = time.monotonic()
    for attempt in (lambda: claimed(tmp_path).__enter__(), lambda: refuse_if_claimed(tmp_path)):
        with pytest.raises(DataError, match=rf"{re.escape(str(tmp_path))}: {who}.*, is at work in this run folder"):
            attempt()
    assert time.monotonic() - started < 10, "nobody waits"


def test_a_frozen_owner_is_still_the_owner(tmp_path: Path, holder: Holder) -> None:
    holder.process.send_signal(signal.SIGSTOP)
    os.utime(tmp_path / CLAIM, (0, 0))
    with pytest.raises(DataError, match="is at work"), claimed(tmp_path):
        pass


def test_a_killed_owner_keeps_nobody_out_although_its_worker_lives(tmp_path: Path, holder: Holder) -> None:
    holder.kill()
    os.kill(holder.worker, 0)
    refuse_if_claimed(tmp_path)
    with claimed(tmp_path):
        assert json.loads((tmp_path / CLAIM).read_text())["process"] == os.getpid()


def test_a_claim_leaves_nothing_behind_and_can_be_made_again(tmp_path: Path) -> None:
    for _ in range(2):
        with claimed(tmp_path):
            with pytest.raises(DataError, match=rf"process {os.getpid()} on"), claimed(tmp_path):
                pass
            assert (tmp_path / CLAIM).exists()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', "[" * 4000])
def test_a_damaged_claim_that_nobody_holds_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / CLAIM).write_text(content)
    with claimed(tmp_path):
        assert json.loads((tmp_path / CLAIM).read_text())["process"] == os.getpid()


def test_an_owner_on_another_host_counts_while_it_is_heard_of(tmp_path: Path) -> None:
    """Locks may not reach that far."""
    write_owner(tmp_path, age=20, host="elsewhere")
    with pytest.raises(
        DataError, match=r"on elsewhere, since 2026-01-01.*; if it is gone, the folder is free in (3[0-9]|40) s"
    ):
        refuse_if_claimed(tmp_path)
    with pytest.raises(DataError, match="on elsewhere"), claimed(tmp_path):
        pass
    write_owner(tmp_path, age=61, host="elsewhere")
    refuse_if_claimed(tmp_path)
    with claimed(tmp_path):
        pass


@pytest.mark.parametrize(
    ("owner", "age", "is_refused"),
    [("alive", 0, True), ("alive", 61, False), ("gone", 0, False)],
    ids=["at work", "a number that was given again", "gone"],
)
def test_without_locks_the_process_and_its_beat_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, age: float, is_refused: bool
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    write_owner(tmp_path, age=age, process=os.getppid() if owner == "alive" else gone())
    if is_refused:
        with pytest.raises(DataError, match=f"process {os.getppid()} on"), claimed(tmp_path):
            pass
        return
    with claimed(tmp_path):
        assert json.loads((tmp_path / CLAIM).read_text())["process"] == os.getpid()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("keep me")
    (tmp_path / "run" / CLAIM).symlink_to(tmp_path / "precious")
    with pytest.raises(DataError, match="cannot claim the run folder"), claimed(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "keep me"


def test_the_owner_is_heard_of_and_ends_when_somebody_has_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(claims, "_BEAT_SECONDS", 0.02)
    monkeypatch.setattr(os, "_exit", ended.append)
    with claimed(tmp_path):
        os.utime(tmp_path / CLAIM, (0, 0))
        time.sleep(0.3)
        assert time.time() - (tmp_path / CLAIM).stat().st_mtime < 10
        assert not ended
        write_owner(tmp_path, host="elsewhere")
        time.sleep(0.3)
        assert set(ended) == {9}
    assert "has taken over this run folder" in capfd.readouterr().err
    assert (tmp_path / CLAIM).exists(), "the claim of the other stays"


def test_a_run_holds_its_folder_from_its_first_word_to_its_last(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[str, bool]] = []
    write = RunFolder.write_status

    def look(folder: RunFolder, **changes: Any) -> None:
        try:
            refuse_if_claimed(folder.path)
        except DataError:
            held.append((changes.get("status", ""), True))
        else:
            held.append((changes.get("status", ""), False))
        write(folder, **changes)

    monkeypatch.setattr(claims, "_TRIES", 1)
    monkeypatch.setattr(RunFolder, "write_status", look)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(StoppedOnRequest):
            run_experiment(experiment(world, plugins), plugins=plugins)
    run_experiment(experiment(world, plugins), plugins=plugins, continues=True)
    assert {("running", True), ("stopped", True), ("done", True)} <= set(held)
    assert all(is_held for _, is_held in held), held


def test_a_run_that_goes_on_is_neither_resumed_nor_evaluated(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = experiment(world, plugins)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(StoppedOnRequest):
            run_experiment(loaded, plugins=plugins)
    (folder,) = (path for path in (world / "runs" / "toy").iterdir() if not path.is_symlink())
    assert not (folder / CLAIM).exists()
    status = (folder / "status.json").read_bytes()
    opened = OpenedRun(RunFolder(folder), experiment(world, plugins, "train.epochs=0"), plugins, "last")
    alone = Ranks(0, 1, torch.device("cpu"))

    live = Holder(folder)
    try:
        files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        with pytest.raises(DataError, match=rf"{folder}: process {live.process.pid} on"):
            run_experiment(loaded, plugins=plugins, continues=True)
        for again in (evaluate_run, predict_run):
            with pytest.raises(DataError, match=rf"process {live.process.pid} on"):
                again(opened, alone, Reporters([]))
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files
        assert (folder / "status.json").read_bytes() == status
    finally:
        live.end()
    assert evaluate_run(opened, alone, Reporters([]))
    assert run_experiment(loaded, plugins=plugins, continues=True).folder == folder
