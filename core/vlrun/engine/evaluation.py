"""Evaluating a split: a task predicts it, on all processes, and its metrics score the predictions."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlrun.data.first_batch import outline_if_possible
from vlrun.data.loading import BatchLoader, EvaluationBatches
from vlrun.data.residency import encoding_on_device
from vlrun.engine.device_copies import DeviceCopies
from vlrun.engine.examples import Chooser, Note, Pictures, example_record
from vlrun.engine.model import weights_fingerprint
from vlrun.engine.precision import precision_name
from vlrun.engine.ranks import Ranks
from vlrun.engine.run import Run, TaskRun
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.stopping import StopRequest, leave_if_asked
from vlrun.errors import DataError
from vlrun.interfaces.backbone import Backbone, PairEncoder
from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.examples import Example, Prediction, RegionBatch, Score
from vlrun.interfaces.metric import Metric
from vlrun.interfaces.reporter import EvaluationReport
from vlrun.interfaces.run_view import RunView
from vlrun.interfaces.tensors import Batch, Encoding, in_full_precision, on_cpu
from vlrun.seeds import example_rng


@dataclass(frozen=True)
class TaskView(RunView):
    """A run as one of its tasks sees it."""

    run: Run
    task: TaskRun
    stop: StopRequest

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def seed(self) -> int:
        return self.run.experiment.seed

    @property
    def datasets(self) -> Mapping[str, Dataset[Any]]:
        return {name: maker.dataset for name, maker in self.task.splits.items()}

    @property
    def train(self) -> Dataset[Any] | None:
        return None if self.task.train is None else self.task.train.dataset

    @property
    def encode(self) -> PairEncoder:
        return self.task.encode

    @property
    def ranks(self) -> Ranks:
        return self.run.ranks

    @property
    def device(self) -> torch.device:
        return self.run.device

    @property
    def folder(self) -> Path:
        return self.run.folder.path

    @property
    def backbone(self) -> Backbone:
        return self.run.model.backbone

    @property
    def head(self) -> nn.Module:
        return self.run.model.heads[self.task.name]

    def read_regions(self, image_ids: Sequence[str]) -> RegionBatch:
        return self.task.read_regions(image_ids)

    def autocast(self) -> AbstractContextManager[Any]:
        return self.run.autocast()

    def predict(self, split: str) -> list[Prediction]:
        return predict_examples(self.run, self.task, split, self.stop)

    def outputs(self, example: Example[Any]) -> tuple[Any, Batch]:
        task = self.task.task
        pairs = task.pairs(example, example_rng(self.seed, 0, 0))
        regions = self.read_regions([pair.image_id for pair in pairs])
        encoding = self.encode(pairs, regions)
        batch = Batch((example.id,), encoding, task.collate([example], regions, encoding))
        was_training = self.run.model.training
        self.run.model.eval()
        try:
            return head_outputs(self.run, self.task, batch), batch
        finally:
            self.run.model.train(was_training)

    def identity(self) -> dict[str, Any]:
        options = self.run.experiment.backbone.model_dump(mode="json", exclude={"weights"})
        return {
            "weights": self.ranks.from_main(lambda: weights_fingerprint([self.backbone, self.head])),
            "backbone": hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16],
            "vocabulary": self.backbone.vocabulary_hash,
            "features": self.task.store.fingerprint,
            "images": "hidden" if self.task.config.dataset.hide_images else "shown",
            "max_text_tokens": self.task.config.max_text_tokens,
            "precision": precision_name(self.run.experiment, self.device),
            "device": self.device.type,
        }

    def leave_if_asked(self, during: str) -> None:
        leave_if_asked(self.ranks, self.stop, during)

    def note(self, message: str) -> None:
        self.run.reporters.note(message)

    def progress(self, what: str, done: int, total: int) -> None:
        self.run.progress(what, done, total)


def evaluate_split(
    run: Run, task_run: TaskRun, split: str, *, epoch: int, stop: StopRequest, final: bool = False, checkpoint: str = ""
) -> EvaluationReport:
    """Predicts and scores a split; the main rank writes the predictions of a final evaluation and reports.

    Returns:
        What is reported, but for the time the same on every rank; no scores where the ground truth is hidden.
    """
    started = time.monotonic()
    predictions = task_run.task.evaluate(TaskView(run, task_run, stop), split, final=final)

    def write_and_score() -> list[Score]:
        if final:  # before the metrics, which may refuse them
            write_outputs(run.outputs or run.folder, task_run, split, predictions, run.reporters.note)
        return (
            [] if split in task_run.hidden else score_predictions(task_run, split, predictions, checkpoint, final=final)
        )

    scores = run.ranks.from_main(write_and_score)
    seconds = time.monotonic() - started
    report = EvaluationReport(
        task_run.name, split, run.step, epoch, scores, seconds, len(predictions), final, checkpoint
    )
    if split in task_run.hidden:
        run.reporters.note(f"{task_run.name} {split}: {len(predictions):,} predictions; the ground truth is hidden")
    elif run.ranks.is_main:
        run.reporters.evaluation(report)
    return report


def write_outputs(
    folder: RunFolder, task_run: TaskRun, split: str, predictions: Sequence[Prediction], note: Note
) -> list[Path]:
    """Writes predictions, a few examples of them, and the file for the server if there is one; not the examples' path.

    On the main process, of a final evaluation.
    """
    task = task_run.task
    dataset = task.evaluated_part(task_run.splits[split].dataset, final=True)
    pictures = Pictures(task_run.config.dataset.pictures)
    chooser = Chooser(pictures)
    cases = chooser.passing(task.cases(predictions, dataset))
    written = [folder.write_predictions(task_run.name, split, predictions, cases)]
    examples = [example_record(kind, case, pictures, note) for kind, case in chooser.chosen()]
    folder.write_examples(task_run.name, split, examples)
    submission = folder.write_submission(task_run.name, split, task, predictions)
    return written if submission is None else [*written, submission]


def score_predictions(
    task_run: TaskRun, split: str, predictions: list[Prediction], checkpoint: str = "", *, final: bool = True
) -> list[Score]:
    """Scores a split with all metrics of its task; protocols say which split and which checkpoint."""
    dataset = task_run.task.evaluated_part(task_run.splits[split].dataset, final=final)
    common = {
        "split": split,
        **({"checkpoint": checkpoint} if checkpoint else {}),
        **task_run.marks.get(split, {}),
        **task_run.task.evaluation_protocol(final=final),
    }
    scores = metric_scores(task_run.metrics, predictions, dataset, common)
    return [replace(score, units=None) for score in scores]  # as many as examples, so they stay here


def metric_scores(
    metrics: Sequence[Metric], predictions: Sequence[Prediction], dataset: Dataset[Any], common: Mapping[str, Any]
) -> list[Score]:
    """The scores of all metrics; each says what data it is of, what ``common`` says, and what its metric says."""
    common = {**dataset.protocol, **common}
    return [
        replace(score, protocol={**common, **score.protocol})
        for metric in metrics
        for score in metric(predictions, dataset)
    ]


def predict_examples(run: Run, task_run: TaskRun, split: str, stop: StopRequest) -> list[Prediction]:
    """One prediction for each example of a split, in order, the same for any number of processes.

    While the device works on a batch, the next one is loaded and on its way there.

    Raises:
        StoppedOnRequest: a signal came.
        DataError: the task did not predict each example exactly once.
    """
    maker = task_run.splits[split]
    batch_size = run.experiment.train.evaluate_batch_size
    mine = EvaluationBatches(len(maker), batch_size, run.ranks.rank, run.ranks.world_size)
    with run.ranks.together():
        outline_if_possible(task_run.name, maker, mine[0] if len(mine) else [], run.residency)
        run.residency.load(run.progress)
    loader = BatchLoader(
        maker,
        workers=run.workers,
        pin_memory=run.device.type == "cuda",
        timeout_seconds=run.experiment.train.distributed_timeout,
        residency=run.residency,
    )
    batches, copies = loader.batches(mine), DeviceCopies(run.device)

    def started() -> tuple[Batch, Encoding] | None:
        batch = next(batches, None)
        return None if batch is None else (batch, copies.start_encoding(batch))

    was_training = run.model.training
    run.model.eval()
    predicted: list[tuple[int, Prediction]] = []
    try:
        with run.ranks.together():
            coming = started()
        for number in range(mine.rounds):
            leave_if_asked(run.ranks, stop)
            with run.ranks.together():
                if coming is not None:
                    batch, encoding = coming
                    copies.wait([encoding])
                    outputs = _forward(run, task_run, encoding)
                    coming = started()
                    positions = [position for _, position in mine[number]]
                    predicted += zip(positions, predict_batch(task_run, outputs, batch), strict=True)
            if run.ranks.is_main:
                run.reporters.progress(f"evaluating {split}", number + 1, mine.rounds)
    finally:
        run.model.train(was_training)
    gathered = sorted(run.ranks.gather(predicted), key=lambda item: item[0])
    if [position for position, _ in gathered] != list(range(len(maker))):
        raise DataError(f"{split}: {len(gathered)} predictions for {len(maker)} examples; each needs exactly one")
    return [prediction for _, prediction in gathered]


@torch.inference_mode()
def predict_batch(task_run: TaskRun, outputs: Any, batch: Batch) -> list[Prediction]:
    """Predictions of one batch, in order, from what the head gives for it."""
    return task_run.task.predict(_decoded(task_run, outputs, batch), batch)


@torch.inference_mode()
def head_outputs(run: Run, task_run: TaskRun, batch: Batch) -> Any:
    """What a task's ``predict`` takes, on the CPU."""
    return _decoded(task_run, _forward(run, task_run, encoding_on_device(batch, run.device)), batch)


@torch.inference_mode()
def _forward(run: Run, task_run: TaskRun, encoding: Encoding) -> Any:
    with run.autocast():
        return run.model(task_run.name, encoding)


def _decoded(task_run: TaskRun, outputs: Any, batch: Batch) -> Any:
    return on_cpu(task_run.task.decode(in_full_precision(outputs), batch))
