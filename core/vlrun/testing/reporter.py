"""The check of reporters."""

from __future__ import annotations

import gc
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import EvaluationReport, Outcome, Reporter, ResultRow, RunInfo, StepReport

Call = tuple[Any, ...]
"""The name of a method, and its arguments."""

_TRACEBACK = "Traceback (most recent call last)"
_SCORES = (
    Score("accuracy", 62.5, count=60, protocol={"dataset": "checked"}, primary=True, standard_error=6.3),
    Score("loss", 0.25, unit="", count=60, higher_is_better=False),
)


def check_reporter(make: Callable[[], Reporter]) -> None:
    """Asserts what the core relies on in a reporter; ``make`` returns a new one, as every run has its own.

    It takes all that a run tells, in order: start, steps in bursts, progress, evaluation, note, finish, close. Also of
    a run without steps, of one that fails, of its continuation in the same folder, of a run of several tasks, and of
    one that ends before it starts; none of these runs touches the files of another. It prints no traceback, closes its
    files, and writes nothing outside the run folder: not in the working directory, nor in the home directory.
    """
    kept = []  # what a reporter leaves open stays open until it is looked for
    with tempfile.TemporaryDirectory() as name, _elsewhere(Path(name).resolve()) as base:
        for run, (folder, calls) in _runs(base / "runs").items():
            folder.mkdir(parents=True, exist_ok=True)
            before = _files(base, without=folder)
            kept.append(_tell(make, calls, run))
            written = [path for path, content in _files(base, without=folder).items() if before.get(path) != content]
            places = ", ".join(_place(path, base) for path in written)
            assert not written, f"the reporter writes outside the run folder, in {run}: {places}"
            lost = ", ".join(_place(path, base) for path in before if not path.exists())
            assert not lost, f"the reporter deletes outside the run folder, in {run}: {lost}"
        left = sorted({Path(file.name).name for file in _open_files(base)})
        assert not left, f"close() must close what the reporter opened, and leaves open: {', '.join(left)}"
    is_new = len(set(map(id, kept))) == len(kept)
    assert is_new, "make() must return a new reporter at each call, as every run has its own"


def _tell(make: Callable[[], Reporter], calls: Sequence[Call], run: str) -> Reporter:
    """Tells a new reporter of a run."""
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        reporter = make()
        assert isinstance(reporter, Reporter), f"make() must return a Reporter, not {reporter!r}"
        for method, *arguments in calls:
            try:
                getattr(reporter, method)(*arguments)
            except Exception as error:
                raise AssertionError(
                    f"{method}() raises in {run}, and a reporter that raises is left out from then on: "
                    f"{type(error).__name__}: {error}"
                ) from error
    assert _TRACEBACK not in output.getvalue(), f"the reporter prints a traceback in {run}:\n{output.getvalue()}"
    return reporter


def _runs(folder: Path) -> dict[str, tuple[Path, list[Call]]]:
    """What the run is -> its folder and what it tells."""
    one, other, idle, joint, never = (folder / name for name in ("one", "other", "idle", "joint", "never"))
    failed = Outcome("failed", "DataError: the file is damaged", locations=[("log", str(other / "log.txt"))])
    return {
        "a run that is stopped": (one, [_start(one), *_burst(1, 2), *_evaluation(2), _finish("stopped"), ("close",)]),
        "a run that is continued": (one, [_start(one, 2), *_burst(3, 4), *_evaluation(4, True), _finish(), ("close",)]),
        "a run that fails": (other, [_start(other), *_burst(1), ("finish", failed), ("close",)]),
        "a run without steps": (idle, [_start(idle, 4), *_evaluation(4, True), _finish(), ("close",)]),
        "a run of several tasks": (
            joint,
            [
                _start(joint, num_tasks=2),
                *_burst(1, 2, tasks=("checked", "another")),
                *_evaluation(2),
                *_evaluation(2, task="another"),
                _finish(),
                ("close",),
            ],
        ),
        "a run that ends before it starts": (never, [("close",)]),
    }


def _start(folder: Path, start_step: int = 0, num_tasks: int = 1) -> Call:
    facts = [("backbone", "stub"), ("data", "60 examples")]
    return ("start", RunInfo("checked", folder, facts, 4, 2, 2, start_step, num_tasks=num_tasks))


def _burst(*steps: int, tasks: Sequence[str] = ("checked",)) -> Iterator[Call]:
    for step in steps:
        task, epoch = tasks[step % len(tasks)], (step + 1) // 2
        losses = {"class": 0.5 / step, "box": 0.25 / step}
        scalars = {"accuracy": 1 - 0.5 / step, "norm/heads.*": math.nan} if step % 2 else {}
        rates = (1e-4, 1.5, 100.0, 0.1, 4.0 - step)
        report = StepReport(step, epoch, task, losses, 0.75 / step, *rates, task_epoch=epoch, scalars=scalars)
        yield ("step", report)
    yield ("flush",)


def _evaluation(step: int, final: bool = False, task: str = "checked") -> Iterator[Call]:
    yield ("progress", f"{task} val", 0, 60)
    yield ("progress", f"{task} val", 60, 60)
    yield ("evaluation", EvaluationReport(task, "val", step, step // 2, _SCORES, 1.5, 60, final))
    yield ("note", "the best so far: accuracy 62.5 %")


def _finish(status: str = "done") -> Call:
    rows = [ResultRow("checked", "val", score, 60.0, "Table 1", ["split"]) for score in _SCORES]
    return ("finish", Outcome(status, f"{status} after 4 steps", rows if status == "done" else []))


@contextmanager
def _elsewhere(base: Path) -> Iterator[Path]:
    """Working and home directory inside ``base``, so that what is written there is seen."""
    home = os.environ.get("HOME")
    for name in ("working directory", "home"):
        (base / name).mkdir()
    try:
        os.environ["HOME"] = str(base / "home")
        with chdir(base / "working directory"):
            yield base
    finally:
        if home is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = home


def _files(base: Path, without: Path) -> dict[Path, bytes]:
    """Every file below ``base`` but not in the folder ``without``, with its content."""
    return {
        path: path.read_bytes() for path in sorted(base.rglob("*")) if path.is_file() and without not in path.parents
    }


def _place(path: Path, base: Path) -> str:
    return str(path.relative_to(base))


def _open_files(base: Path) -> list[Any]:
    """Open files below ``base``, as Python's garbage collector knows them."""
    files = [item for item in gc.get_objects() if type(item) is io.FileIO and not item.closed]
    return [file for file in files if os.path.isabs(str(file.name)) and base in Path(str(file.name)).resolve().parents]
