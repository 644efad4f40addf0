"""Evaluating, predicting and scoring after a run: what `evaluate`, `predict` and `score` do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlrun.config.experiment import Experiment
from vlrun.data.splits import describe_features, images_path, open_images
from vlrun.engine.assembly import assemble, build_metrics, check_splits
from vlrun.engine.checkpoints import Checkpoints
from vlrun.engine.claim import refuse_if_claimed
from vlrun.engine.evaluation import TaskView, evaluate_split, metric_scores, write_outputs
from vlrun.engine.ranks import Ranks, join_ranks
from vlrun.engine.run import Run, TaskRun
from vlrun.engine.run_folder import DATA, OpenedRun
from vlrun.engine.staging import stage_features
from vlrun.engine.start_checks import check_evaluation_batches
from vlrun.engine.stopping import StopRequest
from vlrun.errors import DataError, UsageError, first_few
from vlrun.foreign.json import parse_json
from vlrun.foreign.yaml import parse_yaml
from vlrun.interfaces.examples import Prediction, Score
from vlrun.interfaces.reporter import Reporters, ResultRow
from vlrun.interfaces.run_view import RunView
from vlrun.interfaces.task import Task
from vlrun.plugins.manager import Plugins
from vlrun.reporting.hashes import refuse_damaged
from vlrun.reporting.progress import progress_on_stderr
from vlrun.reporting.published import result_row
from vlrun.runs.outputs import outputs_of

_MARKS_ARE_THERE = "Put it back as it was: it has the marks of the scores, which without it would have none"


def evaluate_run(opened: OpenedRun, ranks: Ranks, reporters: Reporters) -> list[ResultRow]:
    """Scores the evaluation splits with a checkpoint of the run; predictions are written again.

    Raises:
        As ``evaluate_into``.
    """
    return evaluate_into(opened, ranks, reporters)[0]


def evaluate_into(opened: OpenedRun, ranks: Ranks, reporters: Reporters) -> tuple[list[ResultRow], list[Path]]:
    """Scores the evaluation splits with a checkpoint of the run; also returns the folders of the predictions.

    That is the run folder, or one of its ``evaluations`` if options, data or checkpoint are not those of the run.

    Raises:
        UsageError: there is no such task.
        CheckpointError: there is no such checkpoint, or it does not fit.
        DataError: the run is still going on, or a split cannot be evaluated.
    """
    run = assembled(opened, ranks, reporters)
    with ranks.together():
        check_splits(run.tasks)
    tasks = chosen_tasks(run, opened.labels)
    check_evaluation_batches(run, tasks)
    config = parse_yaml(opened.folder.config.read_text(encoding="utf-8")).data
    rows: list[ResultRow] = []
    folders: list[Path] = []
    for task_run in tasks:
        with ranks.together():
            name, checkpoint = _load(run, opened.checkpoint, task_run, averaged=opened.averaged)
        run.outputs, differences = ranks.from_main(partial(outputs_of, opened, run, task_run, checkpoint))
        folders.append(run.outputs.path)
        for split in task_run.splits:
            report = evaluate_split(run, task_run, split, epoch=0, stop=StopRequest(), final=True, checkpoint=name)
            rows += [
                result_row(config, opened.folder.read_data(), task_run.name, split, score, differences)
                for score in report.scores
            ]
    return rows, list(dict.fromkeys(folders))


def predict_run(opened: OpenedRun, ranks: Ranks, reporters: Reporters) -> list[Path]:
    """Writes predictions and submission files for every evaluation split without scoring: targets may be hidden.

    Raises:
        As ``evaluate_into``.
    """
    run = assembled(opened, ranks, reporters)
    with ranks.together():
        check_splits(run.tasks)
    tasks = chosen_tasks(run, opened.labels)
    check_evaluation_batches(run, tasks)
    written: list[Path] = []
    for task_run in tasks:
        with ranks.together():
            _, checkpoint = _load(run, opened.checkpoint, task_run, averaged=opened.averaged)
        outputs, _ = ranks.from_main(partial(outputs_of, opened, run, task_run, checkpoint))
        for split in task_run.splits:
            predictions = task_run.task.evaluate(TaskView(run, task_run, StopRequest()), split, final=True)
            written += ranks.from_main(
                partial(write_outputs, outputs, task_run, split, predictions, run.reporters.note)
            )
    return written


@dataclass(frozen=True)
class ReopenedTask:
    """A task of a finished run with its weights.

    Attributes:
        view: the run as the task sees it, with the splits that were asked for.
        experiment: name of the experiment.
        checkpoint: name of the weights in results.
    """

    task: Task[Any]
    view: RunView
    experiment: str
    checkpoint: str


@contextmanager
def reopen_task(opened: OpenedRun) -> Iterator[ReopenedTask]:
    """Loads the first task that was asked for, for a verb that works with it; on all processes of a launched job.

    Raises:
        UsageError: there is no such task.
        CheckpointError: there is no such checkpoint, or it does not fit.
        DataError: the run is still going on.
    """
    config = opened.experiment.train
    with (
        join_ranks(config.distributed_timeout, config.threads) as ranks,
        progress_on_stderr(ranks.is_main) as reporters,
    ):
        run = assembled(opened, ranks, reporters)
        task_run = chosen_tasks(run, opened.labels[:1])[0]
        with ranks.together():
            name, _ = _load(run, opened.checkpoint, task_run, averaged=opened.averaged)
        yield ReopenedTask(task_run.task, TaskView(run, task_run, StopRequest()), opened.experiment.name, name)


def score_file(
    experiment: Experiment, split: str, path: Path, plugins: Plugins, label: str | None = None
) -> tuple[str, list[Score]]:
    """Scores a file of predictions, without model or features; also returns the label of the task.

    Raises:
        UsageError: the experiment has several tasks, and ``label`` does not name one of them.
        DataError: the file is damaged, or its predictions do not fit the split.
    """
    labels = [config.display_name for config in experiment.tasks]
    if (label or labels[0]) not in labels or (label is None and len(labels) > 1):
        raise UsageError(f"say which task the predictions are of: --task {' or '.join(labels)}")
    config = experiment.tasks[labels.index(label) if label else 0]
    task = plugins.find("task", config.name).build(config)
    dataset = plugins.find("dataset", config.dataset.name).build(config.dataset, split)
    if images_path(experiment, config.dataset).exists():
        images = open_images(experiment, config.dataset)
        dataset.protocol = {**dataset.protocol, "features": describe_features(images)}
    predictions = read_predictions(path)
    part = task.evaluated_part(dataset, final=True)
    common = {"split": split, **task.evaluation_protocol(final=True)}
    return config.display_name, metric_scores(build_metrics(config, task, plugins), predictions, part, common)


def read_predictions(path: Path) -> list[Prediction]:
    """Reads predictions as a run writes them: JSON lines, each with an ``id``.

    Raises:
        DataError: the file is missing, or lines are wrong; names the first of them.
    """
    predictions, problems = [], []
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot read predictions: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from error
    if text.lstrip("\ufeff \r\n\t").startswith("["):
        raise DataError(
            f"{path}: a JSON list, as an evaluation server takes its results. What is scored here are JSON lines, each "
            "with an 'id', as in the predictions folder of a run; `runner submit-check` checks files for servers"
        )
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        try:
            fields: dict[str, Any] = parse_json(line)
            predictions.append(Prediction(str(fields.pop("id")), fields))
        except ValueError as error:
            problems.append(f"{path}:{number}: not a JSON object with an id ({error})")
        except (KeyError, AttributeError, TypeError):
            problems.append(f"{path}:{number}: not a JSON object with an id")
    if problems:
        raise DataError(first_few(problems))
    return predictions


def assembled(opened: OpenedRun, ranks: Ranks, reporters: Reporters) -> Run:
    """Builds the run without its training data; scores keep the marks that training has set on a split.

    Raises:
        DataError: the run is still going on. At its end it writes the same files, and may remove the checkpoint. Or
            what it says about its data is damaged.
    """
    folder = opened.folder
    ranks.from_main(lambda: refuse_if_claimed(folder.path))
    ranks.from_main(lambda: refuse_damaged(folder.path, DATA, _MARKS_ARE_THERE))
    known = {task: record.get("marks", {}) for task, record in folder.read_data().items()}
    copies = stage_features(opened.experiment, ranks, reporters)
    with ranks.together():
        run = assemble(
            opened.experiment, ranks, folder, reporters, opened.plugins, train=False, known_marks=known, copies=copies
        )
    for task_run in run.tasks if not opened.averaged else []:
        task_run.marks = {split: {**mark, "weights": "without the average"} for split, mark in task_run.marks.items()}
    return run


def chosen_tasks(run: Run, labels: Sequence[str]) -> list[TaskRun]:
    """The tasks with these labels, in the order of the experiment; all tasks if there are no labels.

    Raises:
        UsageError: a label is unknown.
    """
    names = [task_run.name for task_run in run.tasks]
    if unknown := [label for label in labels if label not in names]:
        raise UsageError(f"there is no task '{unknown[0]}' in this run (there is: {', '.join(names)})")
    return [task_run for task_run in run.tasks if not labels or task_run.name in labels]


def load_checkpoint(run: Run, choice: str, task_run: TaskRun) -> str:
    """Loads the chosen checkpoint into the model; returns its name in results.

    A run that trains nothing has no checkpoints: its weights are those that it imports. The optimiser's file, twice as
    large as the model's, is not looked at.

    Raises:
        CheckpointError: there is no such checkpoint, or it does not fit.
    """
    return _load(run, choice, task_run)[0]


def _load(run: Run, choice: str, task_run: TaskRun, *, averaged: bool = True) -> tuple[str, Path | None]:
    """As ``load_checkpoint``; also returns the folder of the checkpoint, if the weights come from one.

    Args:
        averaged: whether the average is wanted where the checkpoint has one, or the weights that were trained.
    """
    folder = run.folder
    if run.weights is not None and choice in ("best", "last") and not folder.checkpoints.is_dir():
        return "imported weights", None
    checkpoints = Checkpoints(folder.checkpoints, model_only=averaged)
    if choice == "best" and not checkpoints.has_best(task_run.name):
        choice = "last"  # the best falls back to it, and results should say so
    checkpoint = checkpoints.choose(choice, task_run.name)
    run.check_checkpoint(checkpoint)
    if averaged:
        checkpoint.load_model(run.model)
    else:
        checkpoint.load_trained(run.model)
    run.step = checkpoint.progress.step
    return f"{choice if choice in ('best', 'last') else checkpoint.path.name} (step {run.step})", checkpoint.path
