"""Evaluating a split: every example is predicted exactly once, whatever the number of processes, and then scored."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from vlrun.data.loading import batch_loader, evaluation_batches
from vlrun.engine.assembly import Run, TaskRun
from vlrun.engine.stopping import StopRequest, leave_if_asked
from vlrun.errors import DataError
from vlrun.interfaces.examples import Prediction, Score
from vlrun.interfaces.reporter import EvaluationReport
from vlrun.interfaces.tensors import on_cpu
from vlrun.matching import MatchingTask
from vlrun.pool_scoring import first_stage_mark, pool_dataset, score_pool


def evaluate_split(
    run: Run, task: TaskRun, split: str, *, epoch: int, stop: StopRequest, final: bool = False, checkpoint: str = ""
) -> list[Score]:
    """Predicts and scores a split; the main rank writes the predictions of a final evaluation and reports.

    Returns:
        The scores, the same on every rank; none where the ground truth is hidden.
    """
    started = time.monotonic()
    predictions = predict_split(run, task, split, stop, final=final)
    if final and run.ranks.is_main:  # before the metrics, which may refuse them
        run.folder.write_predictions(task.name, split, predictions)
        run.folder.write_submission(task.name, split, task.task, predictions)
    if split in task.hidden:
        run.reporters.note(f"{task.name} {split}: {len(predictions):,} predictions; the ground truth is hidden")
        return []
    scores = run.ranks.from_main(lambda: score_predictions(task, split, predictions, checkpoint, final=final))
    if run.ranks.is_main:
        seconds = time.monotonic() - started
        run.reporters.evaluation(
            EvaluationReport(task.name, split, run.step, epoch, scores, seconds, len(predictions), final)
        )
    return scores


def score_predictions(
    task: TaskRun, split: str, predictions: list[Prediction], checkpoint: str = "", *, final: bool = True
) -> list[Score]:
    """All metrics of a task on one split; protocols say which split and which checkpoint."""
    dataset = task.splits[split].dataset
    common = {"split": split, **({"checkpoint": checkpoint} if checkpoint else {}), **task.marks.get(split, {})}
    if isinstance(task.task, MatchingTask):
        dataset = pool_dataset(task, split, final)
        common |= first_stage_mark(task.task.config, final)
    return [
        replace(score, protocol={**common, **score.protocol})
        for metric in task.metrics
        for score in metric(predictions, dataset)
    ]


def predict_split(run: Run, task: TaskRun, split: str, stop: StopRequest, *, final: bool = True) -> list[Prediction]:
    """The predictions of a split, at least on the main rank: of each example in order, or of each query of a pool.

    Raises:
        StoppedOnRequest: a signal asked for it.
        DataError: a task did not predict each example once.
    """
    if isinstance(task.task, MatchingTask):
        return score_pool(run, task, split, stop, final=final)
    maker = task.splits[split]
    batch_size = run.experiment.train.evaluate_batch_size
    mine = evaluation_batches(len(maker), batch_size, run.ranks.rank, run.ranks.world_size)
    rounds = len(evaluation_batches(len(maker), batch_size, 0, run.ranks.world_size))
    loader = batch_loader(maker, mine, workers=run.workers, pin_memory=run.device.type == "cuda")
    was_training = run.model.training
    run.model.eval()
    predicted: list[tuple[int, Prediction]] = []
    try:
        for number in range(rounds):
            leave_if_asked(run.ranks, stop)
            if number < len(mine):
                batch = next(loader)
                positions = [position for _, position in mine[number]]
                predicted += zip(positions, predict_batch(run, task, batch), strict=True)
            if run.ranks.is_main:
                run.reporters.progress(f"evaluating {split}", number + 1, rounds)
    finally:
        run.model.train(was_training)
    gathered = sorted(run.ranks.gather(predicted), key=lambda item: item[0])
    if [position for position, _ in gathered] != list(range(len(maker))):
        raise DataError(f"{split}: {len(gathered)} predictions for {len(maker)} examples; each needs exactly one")
    return [prediction for _, prediction in gathered]


@torch.inference_mode()
def predict_batch(run: Run, task: TaskRun, batch: Any) -> list[Prediction]:
    """Predictions of one batch, in order."""
    with run.autocast():
        outputs = run.model(task.name, batch.encoding.to(run.device))
    return task.task.predict(on_cpu(outputs), batch)
