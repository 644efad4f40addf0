"""What an experiment reads: pictures or region features, and the files that have to be there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlrun.config.base import BackboneConfig, DatasetConfig, TaskConfig
from vlrun.config.problems import Problem
from vlrun.errors import RequiredFile

Part = BackboneConfig | DatasetConfig | TaskConfig


def required_files(parts: Sequence[Part]) -> Iterator[tuple[Part, RequiredFile]]:
    """The files that each part of an experiment asks for; of datasets pictures where the backbone reads them."""
    pictures = any(isinstance(part, BackboneConfig) and part.pictures() is not None for part in parts)
    for part in parts:
        files = part.required_files(pictures=pictures) if isinstance(part, DatasetConfig) else part.required_files()
        yield from ((part, file) for file in files)


def missing_files(parts: Sequence[Part]) -> list[RequiredFile]:
    """Those that do not exist, each path once, as described by the first part that needs it."""
    files: dict[Path, RequiredFile] = {}
    for _, file in required_files(parts):
        if not _is_there(file.path):
            files.setdefault(file.path, file)
    return list(files.values())


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no file can be called so
            return False
        raise


def image_problems(
    backbone: BackboneConfig, index: int, task: TaskConfig, *, for_demo: bool = False
) -> Iterator[Problem]:
    """What keeps a task from showing the backbone what it sees of images: region features, or pictures.

    Args:
        index: number of the task in the experiment.
        for_demo: whether both are those of demo data, which nobody has to name.
    """
    if backbone.pictures() is None:
        if task.dataset.features is None and not for_demo:
            message = f"backbone '{backbone.name}' reads region features: name the store that they are in"
            yield Problem(("tasks", index, "dataset", "features"), message)
    elif task.needs_regions:
        message = f"task '{task.name}' works on regions, and backbone '{backbone.name}' sees whole pictures"
        yield Problem(("tasks", index, "name"), f"{message}; choose a backbone that reads region features")
    elif task.dataset.pictures is None and not for_demo:
        message = f"backbone '{backbone.name}' reads pictures: name the folder that they are in, or an LMDB of them"
        yield Problem(("tasks", index, "dataset", "pictures"), message)


def find_demo_pretraining(raw: dict[str, Any], folder: Path) -> list[Problem]:
    """Makes the option an absolute path.

    A relative path, as people write it, must lead to a file. An absolute one was written by an earlier run, and its
    file need not exist any more.
    """
    value = raw.get("demo_pretraining")
    if not isinstance(value, str):
        return []
    path = Path(os.path.abspath(folder / Path(value).expanduser()))  # unlike resolve, it keeps links
    raw["demo_pretraining"] = str(path)
    if path.is_file() or Path(value).is_absolute():
        return []
    near = ", ".join(sorted(file.name for file in path.parent.glob("[!.]*.yaml"))) or "no experiment"
    message = f"there is no file '{value}' beside this experiment (in {path.parent}: {near})"
    return [Problem(("demo_pretraining",), message)]
