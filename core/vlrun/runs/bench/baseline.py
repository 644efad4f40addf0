"""Training with a network that is written in another way, for comparison: first that it computes the same."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from vlrun.engine.global_batch import has_batch_loss
from vlrun.engine.model import TaskModel
from vlrun.engine.optimisation import set_learning_rate
from vlrun.engine.run import Run, TaskRun
from vlrun.engine.steps import ReadyStep
from vlrun.errors import CheckpointError, UsageError
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.measurement import Baseline
from vlrun.interfaces.task import Task
from vlrun.interfaces.tensors import BackboneOutput, Batch, Encoding, in_full_precision
from vlrun.plugins.manager import Plugins

_TOLERANCE = 1e-3  # of numbers around 1 after a dozen layers in float32
_LEARNING_RATE = 1e-5


def load_baselines(path: Path, backbone: Backbone, name: str) -> list[Baseline]:
    """The baselines of a backbone in a Python file, or in the one that is named after it in a folder.

    Raises:
        UsageError: there is no such file, or it has no function ``baselines``.
    """
    file = path / f"{name.replace('-', '_')}.py" if path.is_dir() else path
    spec = spec_from_file_location(f"vlrun_baselines_{file.stem}", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise UsageError(f"--against {path}: there is no {file}; it has to have baselines(backbone) -> [Baseline, ...]")
    module = module_from_spec(spec)
    sys.path.insert(0, str(file.parent))  # for what several baselines share
    try:
        spec.loader.exec_module(module)
        return list(module.baselines(backbone))
    except (AttributeError, ImportError) as error:
        raise UsageError(f"--against {file}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))


class BaselineSteps:
    """Trains what a run trains with the network of a baseline: in full precision, in one process, from memory."""

    def __init__(self, run: Run, baseline: Baseline, plugins: Plugins) -> None:
        self.name, self.about = baseline.name, baseline.about
        self._run, self._baseline = run, baseline
        backbone: Any = baseline.network
        self._model = _EveryState(backbone, {name: copy.deepcopy(head) for name, head in run.model.heads.items()})
        self._model.to(run.device).train()
        config = run.experiment.train.optimizer
        if baseline.optimizer is None:
            groups = [{"params": list(self._model.parameters()), "lr": 0.0}]
            self._optimizer = plugins.find("optimizer", config.name).build(config, groups)
        else:
            self._optimizer = baseline.optimizer(self._model.parameters(), config)
        set_learning_rate(self._optimizer, _LEARNING_RATE)

    def prepared(self, task_run: TaskRun, batches: Sequence[Batch]) -> list[Batch]:
        """Batches as the baseline holds them in memory."""
        made = [replace(batch, encoding=self._encoding(task_run, batch.encoding)) for batch in batches]
        return [batch.pin_memory() for batch in made] if self._run.device.type == "cuda" else made

    def check(self, task_run: TaskRun, batches: Sequence[Batch]) -> float:
        """Compares outputs and losses of both networks, without dropout; the largest difference.

        Raises:
            CheckpointError: they differ.
            UsageError: the task trains with more than what its head gives for a batch.
        """
        if type(task_run.task).training_outputs is not Task.training_outputs or has_batch_loss(task_run.task):
            raise UsageError(
                f"--against: task '{task_run.name}' changes what a step computes (training_outputs, batch_loss), so "
                "there is nothing to compare; measure it without --against"
            )
        differences = []
        with torch.no_grad(), _full_float32(), _without_dropout(self._run.model, self._model):
            for batch in batches:
                ours, theirs = batch.to(self._run.device), self.prepared(task_run, [batch])[0].to(self._run.device)
                one, other = self._run.model.backbone(ours.encoding), self._model.backbone(theirs.encoding)
                differences += _output_differences(one, other)
                losses = [
                    task_run.task.loss(in_full_precision(model(task_run.name, moved.encoding)), moved.targets)
                    for model, moved in ((self._run.model, ours), (self._model, theirs))
                ]
                differences += [
                    abs(float(value - losses[1][name])) / max(1.0, abs(float(value)))
                    for name, value in losses[0].items()
                ]
        largest = max(differences)
        if not largest <= _TOLERANCE:
            raise CheckpointError(
                f"baseline '{self.name}' computes something else than the backbone: outputs or losses differ by "
                f"{largest:.1e}, so its speed says nothing"
            )
        return largest

    def train(self, task_run: TaskRun, batches: Sequence[Batch], step: ReadyStep) -> None:
        """One step, as the papers' programs do it: the loss is read and the gradient clipped at once."""
        with _full_float32():
            self._step(task_run, batches, step)

    def _step(self, task_run: TaskRun, batches: Sequence[Batch], step: ReadyStep) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            moved = self._gathered(batch).to(self._run.device)
            outputs = self._model(task_run.name, moved.encoding)
            sums = task_run.task.loss(outputs, moved.targets)
            loss = torch.stack([value / step.counts[name] for name, value in sums.items()]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        limit = self._run.experiment.train.max_grad_norm
        if limit is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), limit)
        self._optimizer.step()

    def _gathered(self, batch: Batch) -> Batch:
        """The batch with its features put together from those of single images; for a GPU, loader workers do that."""
        if self._run.device.type != "cpu":
            return batch
        features = torch.stack(list(batch.encoding.region_features))
        return replace(batch, encoding=replace(batch.encoding, region_features=features))

    def _encoding(self, task_run: TaskRun, encoding: Encoding) -> Encoding:
        if not self._baseline.takes_half:
            encoding = replace(encoding, region_features=encoding.region_features.float())
        masks_words = type(task_run.task).mask is not Task.mask  # whose targets are as wide as the texts
        if not self._baseline.pads_texts or masks_words:
            return encoding
        more = (0, task_run.config.max_text_tokens - encoding.token_ids.shape[1])
        texts = ("token_ids", "text_mask", "position_ids")
        values = {name: getattr(encoding, name) for name in texts}
        padded: dict[str, Any] = {name: pad(value, more) for name, value in values.items() if value is not None}
        return replace(encoding, full_texts=False, **padded)


class _EveryState(TaskModel):
    """Computes all states, whatever the head reads, as the papers' programs do."""

    def forward(self, task: str, encoding: Encoding) -> Any:
        """The output of a task's head for P pairs, from states (P, L, H) and (P, R, H) and pooled (P, H)."""
        return self.heads[task](self.backbone(encoding))


@contextmanager
def _full_float32() -> Iterator[None]:
    """Products without TF32, on GPUs that have it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _without_dropout(*models: nn.Module) -> Iterator[None]:
    training = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for model, mode in zip(models, training, strict=True):
            model.train(mode)


def _output_differences(ours: BackboneOutput, theirs: BackboneOutput) -> list[float]:
    """Of what is real in text and regions, and of the pooled output."""

    def largest(one: Tensor, other: Tensor) -> float:
        return float((one - other).abs().max()) if one.numel() else 0.0

    length = ours.text.shape[1]
    return [
        largest(ours.text[ours.text_mask], theirs.text[:, :length][ours.text_mask]),
        largest(ours.regions[ours.region_mask], theirs.regions[ours.region_mask]),
        largest(ours.pooled, theirs.pooled),
    ]
