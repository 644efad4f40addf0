"""Where data and runs lie: what the environment says, and data that have moved since a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrun.files import folder_from

DATA_ROOT_VARIABLE = "VLRUN_DATA"
RUNS_ROOT_VARIABLE = "VLRUN_RUNS"
STAGE_VARIABLE = "VLRUN_STAGE"


def usual_data_root() -> Path:
    """Where data lie for what has no experiment to ask."""
    return folder_from(DATA_ROOT_VARIABLE, "data")


def usual_runs_root() -> Path:
    """Where runs lie for what has no experiment to ask."""
    return folder_from(RUNS_ROOT_VARIABLE, "runs")


def environment_roots(raw: Mapping[str, Any], *, is_of_run: bool) -> dict[str, str]:
    """The roots, and the folder for copies of features, that the environment sets for an experiment file.

    Args:
        is_of_run: whether the file is the configuration of a run. Its data stay where they are if they are there.
    """
    values = {}
    data_root = os.environ.get(DATA_ROOT_VARIABLE)
    is_there = is_of_run and recorded_root(raw) is not None and Path(str(raw["data_root"])).is_dir()
    if data_root and not raw.get("demo") and not is_there:
        values["data_root"] = data_root
    if runs_root := os.environ.get(RUNS_ROOT_VARIABLE):
        values["runs_root"] = runs_root
    if stage := os.environ.get(STAGE_VARIABLE):
        values["features.stage"] = stage
    return values


def recorded_root(raw: Mapping[str, Any]) -> Path | None:
    """The data root of a resolved configuration, whose paths are absolute; None for one that people have written."""
    root = raw.get("data_root")
    return Path(root) if isinstance(root, str) and Path(root).is_absolute() else None


def moved(path: Path, context: Mapping[str, Any]) -> Path:
    """``path`` under the data root; an absolute one under the recorded root has moved with it.

    Args:
        context: ``data_root``, and ``recorded_root`` if the configuration has recorded another one.
    """
    root, recorded = context.get("data_root"), context.get("recorded_root")
    if root is None:
        return path
    if recorded is not None and path.is_relative_to(recorded):
        return Path(root) / path.relative_to(recorded)
    return Path(root) / path.expanduser()
