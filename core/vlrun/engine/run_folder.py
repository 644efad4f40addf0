"""``runs/<experiment>/<timestamp>-<id>/``: what a run leaves behind, readable without vlrun."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrun.errors import ConfigError
from vlrun.files import atomic_write, made_whole, point_symlink, read_object_or_empty, write_json, write_text
from vlrun.interfaces.cases import Case
from vlrun.interfaces.examples import Prediction
from vlrun.plugins.code import code_of_plugins
from vlrun.reporting.checked import read_checked, write_checked
from vlrun.reporting.examples import FOLDER as EXAMPLES
from vlrun.reporting.hashes import refuse_damaged, write_hashed, write_hashed_json

if TYPE_CHECKING:
    from vlrun.config.base import TaskConfig
    from vlrun.config.experiment import Experiment
    from vlrun.interfaces.task import Task
    from vlrun.plugins.manager import Plugins

DATA = "data.json"

_LAY_OVER = "Put it back as it was; for other values, name them after the run: key.path=value"
_RECORDED = ("vlrun", "torch", "numpy", "lmdb", "tokenizers", "safetensors", "pydantic")


@dataclass(frozen=True)
class RunFolder:
    """Paths and small files of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def evaluations(self) -> Path:
        """The scores of evaluations during training."""
        return self.path / "evaluations.json"

    def read_data(self) -> dict[str, Any]:
        """What ``data.json`` says about the data of each task; empty if there is none, or it is no such record."""
        content = read_object_or_empty(self.path / DATA)
        return content if is_data_record(content) else {}

    def changed_code(self, plugins: Plugins) -> list[str]:
        """The distributions whose files are others than when the run started, as far as ``environment.json`` says."""
        before = read_object_or_empty(self.path / "environment.json").get("code", {})
        return [name for name, code in code_of_plugins(plugins).items() if before.get(name, code) != code]

    def read_status(self) -> dict[str, Any]:
        """What ``status.json`` says; empty if it is missing or damaged."""
        return read_checked(self.path / "status.json")

    def write_status(self, **changes: Any) -> None:
        """Updates ``status.json``: status (running, done, stopped, failed), message, step, total_steps, times."""
        write_checked(self.path / "status.json", {**self.read_status(), **changes})

    def write_predictions(
        self, task: str, split: str, predictions: Sequence[Prediction], cases: Iterable[Case]
    ) -> Path:
        """``predictions/<task>_<split>.jsonl``: what the task says about each example, what that is, and what is right.

        Args:
            cases: of each prediction; where both have a field of the same name, that of the prediction counts.
        """
        path = self.path / "predictions" / f"{task}_{split}.jsonl"
        with atomic_write(path) as file:
            for prediction, case in zip(predictions, cases, strict=True):
                line = {"id": prediction.id, **case.context(), **prediction.as_json()}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return path

    def write_examples(self, task: str, split: str, examples: Sequence[Mapping[str, Any]]) -> Path:
        """``examples/<task>_<split>.json``: a few of the predictions, for the report."""
        path = self.path / EXAMPLES / f"{task}_{split}.json"
        write_checked(path, {"task": task, "split": split, "examples": list(examples)})
        return path

    def write_submission(
        self, label: str, split: str, task: Task[Any], predictions: Sequence[Prediction]
    ) -> Path | None:
        """``submission/<task>_<split>...``: the file for the evaluation server; None if there is no server."""
        if task.submission_suffix is None:
            return None
        path = self.path / "submission" / f"{label}_{split}{task.submission_suffix}"
        with made_whole(path) as draft:
            task.write_submission(predictions, draft)
        return path


def is_data_record(content: Mapping[str, Any]) -> bool:
    """Whether it is a record of data; where an earlier version has kept no hash, nothing else tells."""
    from vlrun.config.experiment import RESERVED_LABELS

    def is_of_task(facts: Any) -> bool:
        train = facts.get("train") or []
        parts = [facts.get("features", {}), *_values(facts.get("splits", {})), *_values(facts.get("marks", {}))]
        return all(isinstance(part, dict) for part in (*parts, *(train if isinstance(train, list) else [train])))

    return all(
        isinstance(facts, dict) and (name in RESERVED_LABELS or is_of_task(facts)) for name, facts in content.items()
    )


def _values(container: Any) -> list[Any]:
    """What is in an object; None for anything else, which is no object either."""
    return list(container.values()) if isinstance(container, dict) else [None]


@dataclass(frozen=True)
class OpenedRun:
    """A finished run, and what of it a verb works with.

    Attributes:
        experiment: the run's own, without what only training needs, for the splits that were asked for.
        checkpoint: ``best`` (each task's own best), ``last``, or the path of a checkpoint folder.
        labels: the tasks that were asked for; empty for all.
        changed: the options that are not as in the run, in words.
        averaged: whether weights are the average of ``train.ema``, where the run keeps one, or those that were trained.
    """

    folder: RunFolder
    experiment: Experiment
    plugins: Plugins
    checkpoint: str = "best"
    labels: Sequence[str] = ()
    changed: Sequence[str] = ()
    averaged: bool = True

    @property
    def index(self) -> int:
        """Position of the first task that was asked for."""
        return [task.display_name for task in self.experiment.tasks].index(self.labels[0]) if self.labels else 0

    @property
    def task(self) -> TaskConfig:
        """The first task that was asked for."""
        return self.experiment.tasks[self.index]

    @property
    def splits(self) -> list[str]:
        """The splits of that task."""
        return self.task.dataset.evaluate


def create_run_folder(runs_root: Path, experiment: str) -> RunFolder:
    """Makes a run folder; ``latest`` points at it once ``write_records`` has said that the run has started.

    Raises:
        ConfigError: the runs root cannot be written.
    """
    now = datetime.now()
    unique = f"{now.microsecond:05x}{secrets.token_hex(1)[0]}"  # so that names of one second are in order, too
    path = runs_root / experiment / f"{now:%Y%m%d-%H%M%S}-{unique}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"runs_root: cannot make {path}: {error.strerror}") from error
    return RunFolder(path)


def latest_run_folder(runs_root: Path, experiment: str) -> RunFolder | None:
    """The newest run of an experiment; None if there is none."""
    newest = _newest(runs_root / experiment)
    return None if newest is None else RunFolder(newest.resolve())


def unstarted_runs(runs_root: Path, experiment: str) -> list[Path]:
    """Folders of runs without a configuration, which have not failed: about to start, or killed or stopped there."""
    folders = [path for path in (runs_root / experiment).glob("[0-9]*-*") if path.is_dir() and not path.is_symlink()]
    return [
        path
        for path in folders
        if not (path / "config.yaml").exists()
        and RunFolder(path).read_status().get("status", "running") in ("running", "stopped")
    ]


def run_folder_of(runs_root: Path, experiment: str, job: str) -> RunFolder | None:
    """The run of an experiment that a job has begun; None if it has begun none."""
    folders = (RunFolder(path.parent) for path in (runs_root / experiment).glob("[0-9]*/status.json"))
    return next((folder for folder in folders if folder.read_status().get("job") == job), None)


def _newest(parent: Path) -> Path | None:
    """What ``latest`` points at; if no run has started there, the newest folder of a run that has."""
    times = sorted((path for path in parent.glob("*") if path.name != "latest"), reverse=True)
    return next((path for path in (parent / "latest", *times) if _has_started(path)), None)


def _has_started(path: Path) -> bool:
    return (path / "config.yaml").is_file() and (path / "status.json").is_file()


def open_run_folder(path: Path) -> RunFolder:
    """The run folder at ``path``, which may also be its config.yaml or an experiment's ``runs/<experiment>``.

    Raises:
        ConfigError: there is no run at ``path``.
        DataError: its configuration is damaged.
    """
    for candidate in (path, path.parent, _newest(path)):
        if candidate is not None and _has_started(candidate):
            found = RunFolder(candidate.resolve())
            refuse_damaged(found.path, found.config.name, _LAY_OVER)
            return found
    if message := RunFolder(path).read_status().get("message"):
        raise ConfigError(f"{path}: this run has not started, so there is nothing to work with: {message}")
    raise ConfigError(f"{path}: not a run folder (no config.yaml and status.json in it)")


def write_records(folder: RunFolder, config: str, plugins: Plugins, data: Callable[[], Mapping[str, Any]]) -> None:
    """Writes what it takes to trust and repeat the run: configuration, command, environment, data fingerprints.

    From then on ``latest`` points at the run. One that fails before does not hide those that have worked. In a run that
    goes on, only what is missing is written: it may have been killed here.
    """
    if not folder.config.exists():
        write_hashed(folder.path, folder.config.name, config)
    if not (folder.path / "command.txt").exists():
        write_text(folder.path / "command.txt", shlex.join(["runner", *sys.argv[1:]]) + "\n")
    if not (folder.path / "environment.json").exists():
        write_json(folder.path / "environment.json", environment(plugins))
    if not (folder.path / DATA).exists():
        write_hashed_json(folder.path, DATA, data())
    latest = folder.path.parent / "latest"
    if not latest.is_symlink() or latest.readlink().name < folder.path.name:  # not that of a run begun later
        point_symlink(latest, folder.path.name)


def environment(plugins: Plugins) -> dict[str, Any]:
    """Versions, plugins with hashes of their files, revision of the code and hardware."""
    import torch

    from vlrun.engine.ranks import gpu_names

    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _RECORDED},
        "plugins": {record.distribution: record.version for record in plugins.records if record.status == "ok"},
        "code": code_of_plugins(plugins),
        "git": _git_revision(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpu_names(),
    }


def now() -> str:
    """The time as records write it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git_revision() -> dict[str, Any] | None:
    """Commit of the checkout that the core runs from, if it is one."""
    where = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(where), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
