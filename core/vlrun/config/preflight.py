"""What can be seen to be wrong before a run starts: its recipe, headers and first lines of its files (no torch)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlrun.config.experiment import Experiment
from vlrun.errors import CheckpointError, ConfigError, DataError

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # as in the safetensors library


def check_recipe(experiment: Experiment) -> None:
    """Checks what depends on options that a demo replaces, so it comes after that.

    Raises:
        ConfigError: the rate would still rise when training ends.
    """
    epochs, schedule = experiment.train.epochs, experiment.train.schedule
    warmup = schedule.warmup_epochs or 0
    if schedule.name == "warmup-linear" and schedule.schedule_epochs is None and 0 < epochs <= warmup:
        raise ConfigError(
            f"train.schedule: warmup_epochs {warmup:g} is not less than the {epochs} epoch{'s' if epochs > 1 else ''} "
            f"to train (train.epochs); set train.schedule.warmup_epochs to less, such as {epochs / 10:g} (a tenth)"
        )


def check_files(experiment: Experiment) -> None:
    """Checks annotations and weights as far as it takes no time; a run looks at all of them later.

    Raises:
        DataError: a task cannot use its annotations.
        CheckpointError: a task cannot use the imported weights.
    """
    problems = [
        f"task '{task.display_name}': {problem}"
        for task in experiment.tasks
        for problem in task.data_problems(
            [*(task.dataset.train if experiment.train.epochs else []), *task.dataset.evaluate]
        )
    ]
    if problems:
        raise DataError(problems)
    weights = experiment.backbone.weights
    header = None if weights is None else _weights_header(weights)
    if header is not None:
        problems = [
            f"{weights}: task '{task.display_name}': {problem}"
            for task in experiment.tasks
            for problem in task.weights_problems(*header)
        ]
    if problems:
        raise CheckpointError(problems)


def _weights_header(path: Path) -> tuple[dict[str, list[int]], dict[str, Any]] | None:
    """Shapes and metadata of a .safetensors file; None if they cannot be read, which loading says better."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(length)) if length <= _LONGEST_HEADER else {}
        metadata = json.loads(header.pop("__metadata__")["vlrun"])
        return {name: entry["shape"] for name, entry in header.items()}, metadata
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
