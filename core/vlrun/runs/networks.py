"""Networks of finished runs, for plugins that compare or teach with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlrun.config.experiment import Layer, load_experiment
from vlrun.engine.assembly import build_network
from vlrun.engine.checkpoints import Checkpoints
from vlrun.engine.model import TaskModel
from vlrun.engine.run_folder import open_run_folder
from vlrun.errors import CheckpointError, DataError, UsageError
from vlrun.interfaces.tensors import Encoding
from vlrun.plugins.manager import Plugins, create_plugins


class TrainedNetwork(nn.Module):
    """Backbone and head of one task of a finished run, on the CPU and in evaluation mode.

    Attributes:
        task: what the run calls the task.
        vocabulary_hash: of the tokeniser whose ids it takes.
        meaning: what the numbers of its head mean, as ``Task.head_meaning`` says it; empty where the task says nothing.
        source: run and step, for messages and records.
    """

    def __init__(self, model: TaskModel, task: str, meaning: Mapping[str, Any], source: str) -> None:
        super().__init__()
        self.model, self.task, self.meaning, self.source = model, task, meaning, source
        self.vocabulary_hash = model.backbone.vocabulary_hash
        self.eval()

    def forward(self, encoding: Encoding) -> Any:
        """What the head gives for P pairs, from states (P, L, H) and (P, R, H) and pooled (P, H)."""
        return self.model(self.task, encoding)


def load_network(
    path: str | Path, checkpoint: str = "best", *, task: str | None = None, plugins: Plugins | None = None
) -> TrainedNetwork:
    """Loads the network of a finished run, which takes what the pair encoder of an equal backbone makes.

    Args:
        path: a run folder, or ``runs/<experiment>`` for its newest run.
        checkpoint: ``best`` (the task's own best, else the last one), ``last``, or the path of a checkpoint folder.
        task: label of the task of a joint run; None for the only one.

    Raises:
        ConfigError: there is no run at ``path``.
        UsageError: it has no such task, or several and none is named.
        CheckpointError: there is no such checkpoint, or it does not fit.
        DataError: files that the network is built from, such as a vocabulary, are missing.
    """
    plugins = plugins or create_plugins()
    folder = open_run_folder(Path(path))
    trained = load_experiment(folder.config, plugins=plugins)
    labels = [config.display_name for config in trained.tasks]
    if (task or labels[0]) not in labels or (task is None and len(labels) > 1):
        raise UsageError(f"{folder.path}: name one of its tasks: {', '.join(labels)}")
    label = task or labels[0]
    layer = Layer("load_network", {"backbone.weights": None} if trained.train.epochs else {})
    experiment = load_experiment(folder.config, plugins=plugins, layers=[layer])
    needed = [experiment.backbone.required_files(), *(config.required_files() for config in experiment.tasks)]
    if missing := [file for files in needed for file in files if not file.path.exists()]:
        raise DataError([f"missing {file.path} ({file.purpose}): {file.remedy}" for file in missing])
    with torch.random.fork_rng(devices=[]):
        backbone, _, heads, _ = build_network(experiment, plugins)
    model = TaskModel(backbone, dict(zip(labels, heads, strict=True)))
    if not trained.train.epochs:
        return TrainedNetwork(model, label, {}, f"{trained.name}/{folder.path.name}")
    if not folder.checkpoints.is_dir():
        raise CheckpointError(f"{folder.path}: there is no checkpoint yet, so there is no network to load")
    chosen = Checkpoints(folder.checkpoints, model_only=True).choose(checkpoint, label)
    chosen.load_model(model)
    source = f"{trained.name}/{folder.path.name}, step {chosen.progress.step}"
    return TrainedNetwork(model, label, chosen.head_meanings().get(label, {}), source)
