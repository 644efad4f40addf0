"""Where a later evaluation writes: into the run folder if nothing has changed, else into a folder of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlrun.data.splits import split_records
from vlrun.engine.checkpoints import MANIFEST, Checkpoints
from vlrun.engine.run import Run, TaskRun
from vlrun.engine.run_folder import OpenedRun, RunFolder
from vlrun.files import sha256_of, write_json

FOLDER, RECORD = "evaluations", "evaluation.json"
_HASH_LENGTH = 8


def outputs_of(opened: OpenedRun, run: Run, task_run: TaskRun, checkpoint: Path | None) -> tuple[RunFolder, list[str]]:
    """The folder for predictions and submission files of a task, made by a later evaluation of the run.

    Also returns in what the evaluation differs from that of the run itself.

    A run's own files stay as they are unless the same would be made again. What differs from the run is said in
    ``evaluation.json``, and its hash names the folder, so that the same evaluation finds its folder again.

    Args:
        checkpoint: the folder of the weights; None for imported weights.
    """
    differences = [
        *opened.changed,
        *_other_checkpoint(opened, task_run, checkpoint),
        *_other_data(opened.folder.read_data(), run, task_run),
    ]
    if not differences:
        return opened.folder, []
    facts = {
        "differs from the run": differences,
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "checkpoint_manifest_sha256": None if checkpoint is None else sha256_of(checkpoint / MANIFEST),
    }
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_HASH_LENGTH]
    folder = RunFolder(opened.folder.path / FOLDER / name)
    write_json(folder.path / RECORD, {**facts, "options": opened.experiment.model_dump(mode="json")})
    run.reporters.note(f"not as the run was ({'; '.join(differences)}), so predictions go into {folder.path}")
    return folder, differences


def _other_checkpoint(opened: OpenedRun, task_run: TaskRun, checkpoint: Path | None) -> Iterator[str]:
    """Says so if the weights are not those that the run has scored at its end."""
    if checkpoint is None:
        return
    own = opened.folder.checkpoints
    name = Checkpoints(own).final_name(opened.experiment.train.final_checkpoint, task_run.name)
    if checkpoint.parent.resolve() != own.resolve() or checkpoint.name != name:
        yield f"checkpoint: {name} -> {checkpoint.name if checkpoint.parent.resolve() == own.resolve() else checkpoint}"


def _other_data(recorded: Mapping[str, Any], run: Run, task_run: TaskRun) -> Iterator[str]:
    """Compares splits, features and imported weights with what ``data.json`` of the run says about them."""
    known = recorded.get(task_run.name, {}).get("splits", {})
    for split, maker in task_run.splits.items():
        before = known.get(split, {})
        (now,) = split_records(maker.dataset)
        yield from (
            f"{split}: {key}: {before[key]} -> {now[key]}" for key in now if key in before and before[key] != now[key]
        )
    if run.weights is not None:
        earlier, source = recorded.get("weights", {}).get("source_sha256"), run.weights.metadata.get("source_sha256")
        if earlier not in (None, source):
            yield f"weights made from {earlier} -> {source}"
