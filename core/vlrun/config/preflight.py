"""What can be seen to be wrong before a run starts: its recipe, headers and first lines of its files (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrun.config.experiment import Experiment
from vlrun.config.run_reference import run_reference
from vlrun.errors import CheckpointError, ConfigError, DataError
from vlrun.foreign.json import parse_json

WEIGHTS_SUFFIX = ".safetensors"
HEADER_KEY = "vlrun"
"""The header holds all facts as JSON under this one key: several keys would be written in a random order."""


def check_recipe(experiment: Experiment) -> None:
    """Checks what depends on options that a demo replaces, so it comes after that.

    Raises:
        ConfigError: the rate would still rise when training ends.
    """
    if problem := experiment.train.schedule.epochs_problem(experiment.train.epochs):
        raise ConfigError(f"train.schedule: {problem}")


def check_files(experiment: Experiment) -> None:
    """Checks annotations and weights as far as it takes no time; a run looks at all of them later.

    Raises:
        DataError: a task cannot use its annotations.
        CheckpointError: the backbone or a task cannot use the imported weights, or they are damaged.
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
    if weights is None or not weights.exists():  # a demo makes its own later
        return
    header = weights_header(weights)
    problems = [f"{weights}: {problem}" for problem in experiment.backbone.weights_problems(*header)]
    problems += [
        f"{weights}: task '{task.display_name}': {problem}"
        for task in experiment.tasks
        for problem in task.weights_problems(*header)
    ]
    if problems:
        raise CheckpointError(problems)


def check_is_imported(path: Path) -> None:
    """Raises CheckpointError for a file that is not of imported weights, by its name."""
    if run_reference(path) is not None:
        raise CheckpointError(
            f"{path}: only an experiment names a run; here name a file, from: runner weights export RUN OUT"
        )
    if path.suffix != WEIGHTS_SUFFIX:
        raise CheckpointError(
            f"{path}: only imported weights ({WEIGHTS_SUFFIX}) can be loaded; convert it once: "
            f"runner weights import --from FORMAT {path} {path.with_suffix(WEIGHTS_SUFFIX)}"
        )


def recorded_facts(header: Mapping[str, str]) -> dict[str, Any]:
    """What an import has recorded in the header of a file; of a file that is not imported, all that its header says.

    Raises:
        ValueError: it is damaged.
    """
    if HEADER_KEY not in header:
        return dict(header)
    facts = parse_json(header[HEADER_KEY], allow_nan=True)
    if not isinstance(facts, dict):
        raise ValueError(f"its header holds {type(facts).__name__}, expected an object")
    return facts


def weights_header(path: Path) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Shapes of all tensors of imported weights, and what the import has recorded.

    Raises:
        CheckpointError: the file is damaged, or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    check_is_imported(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            metadata = recorded_facts(header)
            return {name: file.get_slice(name).get_shape() for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: cannot be read, it may be damaged: {reason}") from error
