"""Networks that a task asks in training besides the one that trains."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from vlrun.engine.run import Run, TaskRun
from vlrun.errors import ConfigError


def companions_of(run: Run, task_run: TaskRun) -> Mapping[str, nn.Module]:
    """Makes the companions of a task ready: on the device, in evaluation mode, frozen.

    Raises:
        ConfigError: one takes the token ids of another vocabulary.
    """
    companions = dict(task_run.task.companions())
    ours = run.model.backbone.vocabulary_hash
    for name, network in companions.items():
        theirs = getattr(network, "vocabulary_hash", "")
        if ours and theirs and ours != theirs:
            raise ConfigError(
                f"task '{task_run.name}': its companion '{name}' was trained with another vocabulary ({theirs}) than "
                f"that of backbone '{run.experiment.backbone.name}' ({ours}), so the same token ids are other words"
            )
        network.requires_grad_(False).eval().to(run.device)
    return companions
