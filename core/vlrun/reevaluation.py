"""Evaluating, predicting and scoring after a run: what `evaluate`, `predict` and `score` do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlrun.assembly import Run, assemble, describe_features, metrics_of
from vlrun.checkpoints import Checkpoint, Checkpoints, open_checkpoint
from vlrun.errors import CheckpointError, DataError
from vlrun.evaluation import evaluate_split, predict_split
from vlrun.examples import Prediction, Score
from vlrun.experiment import Experiment
from vlrun.features.store import RegionFeatureStore
from vlrun.plugins import Plugins
from vlrun.ranks import Ranks
from vlrun.reporting import Reporters, ResultRow
from vlrun.run_folder import RunFolder
from vlrun.runs import published
from vlrun.stopping import StopRequest


def evaluate_run(
    experiment: Experiment, folder: RunFolder, checkpoint: str, plugins: Plugins, ranks: Ranks, reporters: Reporters
) -> list[ResultRow]:
    """Scores every evaluation split of ``experiment`` with a checkpoint of the run; predictions are written again.

    Args:
        checkpoint: ``best``, ``last``, or the path of a checkpoint folder.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    run, name = _with_checkpoint(experiment, folder, checkpoint, plugins, ranks, reporters)
    rows = []
    for task in run.tasks:
        for split in task.splits:
            scores = evaluate_split(run, task, split, epoch=0, stop=StopRequest(), final=True, checkpoint=name)
            rows += [
                ResultRow(task.name, split, score, *published(experiment, task.name, split, score.name))
                for score in scores
            ]
    return rows


def predict_run(
    experiment: Experiment, folder: RunFolder, checkpoint: str, plugins: Plugins, ranks: Ranks, reporters: Reporters
) -> list[Path]:
    """Writes the predictions of every evaluation split, without scoring: targets need not be known."""
    run, _ = _with_checkpoint(experiment, folder, checkpoint, plugins, ranks, reporters)
    written = []
    for task in run.tasks:
        for split in task.splits:
            predictions = predict_split(run, task, split, StopRequest())
            if ranks.is_main:
                written.append(folder.write_predictions(task.name, split, predictions))
    return written


def score_file(experiment: Experiment, split: str, path: Path, plugins: Plugins) -> list[Score]:
    """The scores of a file of predictions, without model or features.

    Raises:
        DataError: the file is damaged, or its predictions do not fit the split.
    """
    config = experiment.tasks[0]
    task = plugins.find("task", config.name).build(config)
    dataset = plugins.find("dataset", config.dataset.name).build(config.dataset, split)
    if config.dataset.features.exists():
        dataset.protocol = {
            **dataset.protocol,
            "features": describe_features(RegionFeatureStore(config.dataset.features)),
        }
    predictions = read_predictions(path)
    scores = [score for metric in metrics_of(config, task, plugins) for score in metric(predictions, dataset)]
    return [replace(score, protocol={"split": split, **score.protocol}) for score in scores]


def read_predictions(path: Path) -> list[Prediction]:
    """Predictions as a run writes them: JSON lines with an ``id`` each.

    Raises:
        DataError: names the first lines that are wrong.
    """
    predictions, problems = [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot read predictions: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            fields: dict[str, Any] = json.loads(line)
            predictions.append(Prediction(str(fields.pop("id")), fields))
        except (ValueError, KeyError, AttributeError):
            problems.append(f"{path}:{number}: not a JSON object with an id")
    if problems:
        raise DataError(problems[:20])
    return predictions


def _with_checkpoint(
    experiment: Experiment, folder: RunFolder, choice: str, plugins: Plugins, ranks: Ranks, reporters: Reporters
) -> tuple[Run, str]:
    run = assemble(experiment, ranks, folder, reporters, plugins, train=False)
    checkpoint = _chosen(folder, choice)
    checkpoint.load_model(run.model)
    run.step = checkpoint.progress.step
    return run, f"{choice if choice in ('best', 'last') else checkpoint.path.name} (step {run.step})"


def _chosen(folder: RunFolder, choice: str) -> Checkpoint:
    checkpoints = Checkpoints(folder.checkpoints)
    if choice not in ("best", "last"):
        return open_checkpoint(Path(choice))
    checkpoint = checkpoints.best() if choice == "best" else checkpoints.newest()[0]
    if checkpoint is None:
        raise CheckpointError(f"{folder.checkpoints}: there is no checkpoint yet")
    return checkpoint
