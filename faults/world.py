"""A short run that writes every kind of file, started as users start it, and what of it must never change."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

HERE = Path(__file__).resolve().parent
EXPERIMENT = HERE / "experiment.yaml"
SHORT = (
    "train.epochs=2",
    "train.batch_size=12",
    "train.evaluate_every=1",
    "train.checkpoint_every=3",
    "train.keep_checkpoints=1",  # of more, one at which a run was stopped would be another than in the whole run
    "tasks.0.negatives={name: mined, candidates: 4, keep: 2, every: 1, from_epoch: 0}",  # not those of the demo
)
TIMEOUT_SECONDS = HANG_SECONDS = 600
SPEEDS = ("examples_per_second", "data_wait_share")

Facts = dict[str, str]
"""Name of a part of a run -> hash of what it says."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit status, negative for a signal, and what it said."""

    status: int
    output: str

    @property
    def is_plain(self) -> bool:
        """Whether it ended as it should or with a message of ours; not with a traceback, nor by a signal in silence."""
        return self.status >= 0 and "Traceback (most recent call last)" not in self.output

    def last_line(self) -> str:
        """The last thing that it said."""
        return (self.output.strip().splitlines() or [""])[-1][:160]


class World:
    """A folder with the whole run, which nothing disturbs, and room for others that are like it until a fault comes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLRUN_CACHE": str(root / "cache")}
        self.config = root / "faults.yaml"

    def prepare(self) -> Ended:
        """Makes the demo data and the resolved configuration; later runs need neither."""
        made = self.run("once", "--demo", "train.epochs=0", experiment=EXPERIMENT)
        if made.status == 0:
            content = (self.folder("once") / "config.yaml").read_text()
            self.config.write_text(re.sub(r"(?m)^name: .*$", "name: faults", content))
        return made

    def command(self, case: str, *arguments: str, experiment: Path | None = None) -> list[str]:
        """That which runs the experiment into ``runs/CASE``."""
        return [sys.executable, "-m", "vlrun", *self.arguments(case, *arguments, experiment=experiment)]

    def arguments(self, case: str, *arguments: str, experiment: Path | None = None) -> list[str]:
        """Those of that command."""
        output = ("--output", str(self.root / "runs" / case))
        short = SHORT if experiment is None else ()
        return ["run", str(experiment or self.config), *output, *short, *arguments]

    def start(self, command: Sequence[str], changes: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts a command in a process group of its own; its output can be read."""
        return subprocess.Popen(
            command,
            env={**self.environment, **(changes or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(
        self,
        case: str,
        *arguments: str,
        changes: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
        **options: Any,
    ) -> Ended:
        """Runs the experiment to its end, whatever that is."""
        return ended(self.start(self.command(case, *arguments, **options), changes), timeout)

    def folder(self, case: str) -> Path:
        """The newest run folder of a case; one that does not exist if there is none."""
        folders = sorted(path for path in (self.root / "runs" / case).glob("*/2*") if path.is_dir())
        return folders[-1] if folders else self.root / "runs" / case / "nothing"

    def copy(self, source: Path, case: str) -> Path:
        """A copy of a run folder, as that of another case."""
        target = self.root / "runs" / case / source.parent.name / source.name
        shutil.rmtree(self.root / "runs" / case, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
        return target

    def forget(self, case: str) -> None:
        """Removes what a case has left."""
        shutil.rmtree(self.root / "runs" / case, ignore_errors=True)


def ended(process: subprocess.Popen[str], timeout: float = TIMEOUT_SECONDS) -> Ended:
    """Waits for a process; one that hangs is killed with all that it has started, and says so."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\nTraceback (most recent call last): it hung for {timeout:.0f} s"
    return Ended(process.returncode, output)


def facts(folder: Path) -> Facts:
    """What must be the same however a run came to its end: weights, predictions, scores, losses, records."""
    found: Facts = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        kind = name.split("/", 1)[0]
        if path.suffix == ".safetensors":
            found[name] = sha256(b"".join(_tensors(path))).hexdigest()
        elif path.name == "manifest.json":
            found[name] = "there"  # it holds hashes of files, whose headers are in any order
        elif kind in ("checkpoints", "predictions", "submission", "examples", "data.json", "evaluations.json"):
            found[name] = sha256(path.read_bytes()).hexdigest()
        elif kind == "negatives":
            found[name] = _arrays(path)
        elif kind in ("config.yaml", "command.txt", "environment.json", "report.html", "header.json", "log.txt"):
            found[name] = "there"
    for link in (folder / "checkpoints").glob("*"):
        if link.is_symlink():
            found[f"checkpoints/{link.name}"] = str(link.readlink())
    found |= _numbers(folder / "metrics.jsonl")
    status = json.loads((folder / "status.json").read_text()) if (folder / "status.json").exists() else {}
    found["status"] = f"{status.get('status')} {status.get('step')}/{status.get('total_steps')}"
    return found


def _arrays(path: Path) -> str:
    try:
        with np.load(path) as arrays:  # the file itself says when it was written
            return sha256(b"".join(arrays[key].tobytes() for key in sorted(arrays))).hexdigest()
    except Exception as error:  # a dozen of its own, of zipfile and of zlib
        return f"unreadable: {type(error).__name__}"


def _tensors(path: Path) -> Iterator[bytes]:
    with safe_open(path, "numpy") as file:
        for key in sorted(file.keys()):
            yield from (key.encode(), file.get_tensor(key).tobytes())


def _numbers(path: Path) -> Facts:
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    kept = [{key: value for key, value in line.items() if key not in (*SPEEDS, "crc32")} for line in lines]
    order = sorted(json.dumps(line, sort_keys=True) for line in kept)
    return {"metrics.jsonl": sha256("\n".join(order).encode()).hexdigest()}


def differences(whole: Facts, other: Facts) -> list[str]:
    """The parts that are not the same, and files that were left behind."""

    def said(name: str) -> str:
        if name not in other:
            return "missing"
        return "left behind" if name not in whole else f"{other[name][:20]} instead of {whole[name][:20]}"

    return [f"{name}: {said(name)}" for name in sorted({*whole, *other}) if whole.get(name) != other.get(name)]


def left_behind(folder: Path) -> list[str]:
    """Drafts, claims and locks in a run that has ended."""
    kept = (".lock",)  # of score matrices: empty, and there for the next
    names = [path.name for path in folder.rglob(".*") if not path.name.endswith(kept)]
    return [*names, *(["owner.json"] if (folder / "owner.json").exists() else [])]


def import_all(world: World) -> None:
    """Imports what runs need, for those that are forked from this process."""
    os.environ["VLRUN_CACHE"] = world.environment["VLRUN_CACHE"]
    for name in ("torch", "vlrun.runs.run", "vlrun.runs.again", "vlrun.reporting.html", "vlrun.reporting.tensorboard"):
        import_module(name)


def forked(arguments: Sequence[str], begin: Callable[[], None] = lambda: None, seconds: float | None = None) -> Ended:
    """What ``runner ARGUMENTS`` says in a process forked from this one, which has imported everything.

    So a signal or a hang is seen, and thousands of runs are affordable.

    Args:
        begin: called in the new process first.
        seconds: after which it is killed; None: after ten minutes, which is a hang.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _run_and_leave(arguments, writing, begin)
    os.close(writing)
    os.set_blocking(reading, False)
    parts, deadline = list[bytes](), time.monotonic() + (seconds or HANG_SECONDS)
    ended_with: int | None = None
    while ended_with is None:
        with suppress(BlockingIOError):
            parts += iter(lambda: os.read(reading, 1 << 16), b"")
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            ended_with = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            ended_with = -signal.SIGKILL
            parts += [] if seconds else [b"Traceback (most recent call last): it hung"]
        else:
            time.sleep(0.01)
    with suppress(BlockingIOError):
        parts += iter(lambda: os.read(reading, 1 << 16), b"")
    os.close(reading)
    return Ended(ended_with, b"".join(parts).decode("utf-8", "replace"))


def _run_and_leave(arguments: Sequence[str], writing: int, begin: Callable[[], None]) -> None:
    from vlrun.cli import main

    said, status = io.StringIO(), 1
    try:
        with redirect_stdout(said), redirect_stderr(said):
            begin()
            try:
                status = main(list(arguments))
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
        os.write(writing, said.getvalue().encode("utf-8", "replace")[-60_000:])
    finally:
        os._exit(status)
