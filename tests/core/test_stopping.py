"""A stop signal is never lost: before there is anything to save it ends the process, later it waits for a step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vlrun.data.workers import EndsWith
from vlrun.engine.launch import launch
from vlrun.engine.stopping import STOP_SIGNALS, stop_at_once_on_signals, stop_on_signals
from vlrun.errors import INTERRUPTED, StoppedOnRequest


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_before_the_run_ends_what_is_going_on(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    expected = KeyboardInterrupt if number == signal.SIGINT else StoppedOnRequest
    with pytest.raises(expected), stop_at_once_on_signals():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_signal_that_an_import_has_swallowed_is_met_when_the_run_begins() -> None:
    with stop_at_once_on_signals():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedOnRequest, match="before the run began"), stop_on_signals():
            pytest.fail("the run began")
        with pytest.raises(StoppedOnRequest):
            launch(print, [], 2)  # type: ignore[arg-type]


SWALLOWS = """
import os, signal
class Named:
    def __set_name__(self, owner, name):  # Python wraps what is raised here
        os.kill(os.getpid(), signal.{name})
class Owner:
    attribute = Named()
try:
    os.kill(os.getpid(), signal.{name})
except BaseException:
    pass
whole = True
"""


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_waits_for_the_end_of_an_import(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"swallows_{number.name.lower()}"
    (tmp_path / f"{name}.py").write_text(SWALLOWS.format(name=number.name))
    monkeypatch.syspath_prepend(tmp_path)
    imported: list[ModuleType] = []

    def import_and_wait() -> None:
        with stop_at_once_on_signals():
            imported.append(import_module(name))
            time.sleep(30)
            pytest.fail("no signal has come again")

    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else StoppedOnRequest):
        import_and_wait()
    assert [module.whole for module in imported] == [True]


def test_a_signal_waits_until_a_process_has_been_started() -> None:
    """Else it would wait for the rest of what it is to do, and end with a traceback."""
    told: list[str] = []

    class Process(multiprocessing.Process):
        @staticmethod
        def _Popen(process: object) -> Any:  # noqa: N802
            os.kill(os.getpid(), signal.SIGTERM)
            told.append("all")
            return SimpleNamespace(sentinel=0, poll=lambda: 0)

    def start_and_wait() -> None:
        with stop_at_once_on_signals():
            Process().start()
            time.sleep(30)
            pytest.fail("no signal has come again")

    with pytest.raises(StoppedOnRequest):
        start_and_wait()
    assert told == ["all"]
    assert not multiprocessing.active_children()


def test_a_signal_that_comes_too_late_for_a_run_stops_the_next() -> None:
    with stop_at_once_on_signals():
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.signal is signal.SIGUSR1
        with pytest.raises(StoppedOnRequest), stop_on_signals():
            pytest.fail("the next run began")


# --- several processes ---

RANKS = """
import os, signal, sys, time
sys.path.insert(0, {tests!r})
import test_stopping
from vlrun.engine import launch as module
from vlrun.engine.launch import launch

if __name__ == "__main__":
    print(flush=True)
    {before}
    status = launch(test_stopping.wait_for_a_signal, [{marker!r}], 2)
    print("status", status, flush=True)
"""


def wait_for_a_signal(arguments: Sequence[str]) -> int:
    Path(f"{arguments[0]}{os.environ['RANK']}").write_text(str(os.getpid()))
    with stop_on_signals() as stop:
        for _ in range(1200):
            if stop:
                return StoppedOnRequest.exit_status
            time.sleep(0.05)
    return 0


class Launched:
    """A launcher of two ranks that wait for a signal, in a folder of its own for temporary files."""

    def __init__(self, folder: Path, before: str = "") -> None:
        self.marker = folder / "rank"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        code = RANKS.format(tests=str(Path(__file__).parent), marker=str(self.marker), before=before)
        (folder / "start.py").write_text(code)
        self.process = subprocess.Popen(
            [sys.executable, str(folder / "start.py")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def ranks(self) -> list[int]:
        """Their process numbers, once they are at work."""
        files = [Path(f"{self.marker}{rank}") for rank in range(2)]
        while not all(file.exists() and file.read_text() for file in files):
            assert self.process.poll() is None
            time.sleep(0.05)
        return [int(file.read_text()) for file in files]

    def output(self) -> str:
        """What it and its ranks have said, once all of them have ended."""
        return self.process.communicate(timeout=60)[0]


def test_a_signal_before_the_ranks_are_there_stops_the_launcher(tmp_path: Path) -> None:
    nobody = "lambda *_: lambda *_: (os.kill(os.getpid(), signal.SIGTERM), [time.sleep(0.1) for _ in range(600)])"
    launched = Launched(tmp_path, f"import torch.distributed.launcher.api as api; api.elastic_launch = {nobody}")
    assert launched.output().splitlines() == ["stopped on request before the run began", "status 75"]


def test_ranks_that_just_begin_miss_no_signal(tmp_path: Path) -> None:
    """They are started with signals held back, and take them once they can handle them."""
    launched = Launched(tmp_path)
    while not _has_ranks(launched.process.pid):
        time.sleep(0.01)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.output().splitlines() == ["status 75"]


def test_a_killed_launcher_leaves_no_rank_no_file_and_no_odd_word(tmp_path: Path) -> None:
    launched = Launched(tmp_path)
    ranks = launched.ranks()
    os.kill(ranks[1], signal.SIGSTOP)
    launched.process.kill()
    assert launched.output().strip() == ""
    assert [path.name for path in launched.temporary.iterdir() if not path.name.startswith("torchinductor")] == []


def test_a_loader_worker_that_starts_as_an_orphan_ends() -> None:
    ends = multiprocessing.get_context("fork").Process(target=EndsWith(os.getppid()), args=(0,))
    lives = multiprocessing.get_context("fork").Process(target=EndsWith(os.getpid()), args=(0,))
    for process in (ends, lives):
        process.start()
        process.join()
    assert (ends.exitcode, lives.exitcode) == (9, 0)


def _has_ranks(launcher: int) -> bool:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return any(b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


def test_interrupted_is_what_shells_say() -> None:
    assert INTERRUPTED == 128 + signal.SIGINT


_RUNNER = """
import atexit, os, signal, sys
import vlrun.cli
from vlrun.cli import runner

def at_work():
    {at_work}
    return 7

vlrun.cli.main = at_work
sys.argv = ["runner", "run"]
atexit.register(lambda: [os.kill(os.getpid(), number) for number in {signals}])
sys.exit(runner())
"""


def _ended(at_work: str) -> subprocess.CompletedProcess[str]:
    program = _RUNNER.format(at_work=at_work, signals=[int(number) for number in STOP_SIGNALS])
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_signal_when_all_is_done_does_not_change_the_status() -> None:
    done = _ended("pass")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


@pytest.mark.parametrize("number", sorted(set(STOP_SIGNALS) - {signal.SIGINT}))
def test_a_signal_that_nothing_handles_ends_with_a_status_and_a_message(number: signal.Signals) -> None:
    done = _ended(f"os.kill(os.getpid(), {int(number)})")
    assert (done.returncode, done.stderr) == (StoppedOnRequest.exit_status, "stopped on request\n")


def test_a_signal_in_the_middle_of_an_import_leaves_the_status_as_it_is() -> None:
    """Python would end by SIGINT, because imports are full of ``exec``, which it does not like to be interrupted."""
    interrupted = """
    import vlrun.engine.stopping as stopping
    try:
        with stopping.stop_at_once_on_signals():
            exec("os.kill(os.getpid(), signal.SIGTERM)")
    except stopping.StoppedOnRequest as stopped:
        return stopped.exit_status"""
    done = _ended(interrupted)
    assert (done.returncode, done.stderr) == (StoppedOnRequest.exit_status, "")
    done = _ended("\n    try: exec('os.kill(os.getpid(), signal.SIGINT)')\n    except KeyboardInterrupt: pass")
    assert done.returncode == 7
