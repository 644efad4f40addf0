"""What ``data.json`` of a run says about its data, and whether they are still the same when the run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrun.config.experiment import Experiment
from vlrun.data.splits import split_records
from vlrun.engine.run import Run
from vlrun.engine.run_folder import DATA, is_data_record
from vlrun.engine.weight_hash import CONTENT_KEY
from vlrun.errors import DataError
from vlrun.files import read_object, sha256_of, write_json
from vlrun.reporting.hashes import is_damaged, is_known, json_text, text_hash, write_hashed_json

MARK = "data changed"
_FILES, _ACCEPTED = "input_files", "accepted_changes"
_SHOWN_DIGITS = 12


def data_record(run: Run) -> dict[str, Any]:
    """What ``data.json`` says: splits, features and images of each task, hashes of files, weights."""
    data: dict[str, Any] = {
        task_run.name: {
            "splits": {name: split_records(maker.dataset)[0] for name, maker in task_run.splits.items()},
            "train": split_records(task_run.train.dataset) if task_run.train else None,
            "features": {
                "path": str(task_run.store.path),
                "fingerprint": task_run.store.fingerprint,
                "extractor": task_run.store.extractor,
            },
            "images": task_run.coverage.table(),
            "marks": {split: dict(mark) for split, mark in task_run.marks.items()},
        }
        for task_run in run.tasks
    }
    if run.identities.path is not None:
        data["image_identities"] = {"path": str(run.identities.path), "sha256": run.identities.sha256}
    if run.weights is not None:
        data["weights"] = {
            "path": str(run.experiment.backbone.weights),
            "source": run.weights.metadata.get("source"),
            "source_sha256": run.weights.metadata.get("source_sha256"),
            CONTENT_KEY: run.weights.metadata.get(CONTENT_KEY),
            "format": run.weights.metadata.get("format"),
            "random": list(run.weights.metadata.get("random", [])),
            "report": run.weights.lines(),
        }
    data[_FILES] = _file_hashes(run.experiment)
    return data


def refuse_changed_data(run: Run, *, is_accepted: bool) -> list[str]:
    """Compares the data of a run that goes on with those that it was started with; on the main process.

    Returns what has changed and was accepted, now or at an earlier start.

    Raises:
        DataError: they differ, and that is not accepted.
    """
    path = run.folder.path / DATA
    if not path.exists():  # the run was killed before it had written them
        return []
    changes: list[str] = []
    record = data_record(run)
    if is_damaged(run.folder.path, DATA) and is_known(run.folder.path, DATA, text_hash(json_text(record))):
        write_json(path, record)  # they are what it said
    try:
        recorded = read_object(path)
    except DataError as error:
        recorded, changes = {}, [f"{error}, so nobody knows what the run was started with"]
    if not changes and (is_damaged(run.folder.path, DATA) or not is_data_record(recorded)):
        recorded, changes = {}, [f"{path} is damaged, so nobody knows what the run was started with"]
    differences = _differences(recorded, record)
    changes += [f"{what} was {before}, is {after}" for what, before, after in differences]
    accepted = [*recorded.get(_ACCEPTED, {}).get("changes", [])]
    if changes and not is_accepted:
        raise DataError(
            [
                f"{run.folder.path} was started with other data, so it cannot be continued with these:",
                *(f"  {change}" for change in changes),
                "Put back what was there, or start anew without --resume. With --accept-changed-data it goes on all "
                "the same, and its results say so.",
            ]
        )
    if changes:
        step = run.folder.read_status().get("step") or 0
        accepted.append(f"after step {step}: {'; '.join(changes)}")
    return accepted


def mark_changed_data(run: Run, accepted: Sequence[str]) -> None:
    """Lets every score of the run, its header and ``data.json`` say that data were changed under it."""
    if not accepted:
        return
    for task_run in run.tasks:
        task_run.marks = {
            split: {**task_run.marks.get(split, {}), MARK: "; ".join(accepted)} for split in task_run.splits
        }
    run.data_notes = [*run.data_notes, *(f"changed {change}" for change in accepted)]
    if run.ranks.is_main:
        write_hashed_json(run.folder.path, DATA, {**data_record(run), _ACCEPTED: {"changes": list(accepted)}})


def _differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """File or store, its hash then, and its hash now; what only one of the two knows is left out."""
    files = recorded.get(_FILES, {})
    yield from (
        (f"file {name}", _short(files[name]), _short(digest))
        for name, digest in now[_FILES].items()
        if files.get(name, digest) != digest
    )
    for task, facts in now.items():
        if task not in recorded or "features" not in facts:
            continue
        before, features = recorded[task], facts["features"]
        fingerprint = before.get("features", {}).get("fingerprint")
        if fingerprint != features["fingerprint"]:
            yield f"features {features['path']}", str(fingerprint), features["fingerprint"]
        if not files:  # written by an earlier version
            yield from _other_splits(task, before, facts)
    for key in ("source_sha256", CONTENT_KEY):
        known, mine = (data.get("weights", {}).get(key) for data in (recorded, now))
        if None not in (known, mine) and known != mine:
            yield f"weights {now['weights']['path']} ({key})", _short(known), _short(mine)


def _other_splits(task: str, before: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    known = {record["split"]: record.get("annotations_sha256") for record in _split_records(before)}
    for record in _split_records(facts):
        then, digest = known.get(record["split"]), record.get("annotations_sha256")
        if then is not None and then != digest:
            yield f"{record.get('annotations')} of task '{task}'", then, str(digest)


def _split_records(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*facts.get("splits", {}).values(), *(facts.get("train") or ())]


def _file_hashes(experiment: Experiment) -> dict[str, str]:
    """SHA-256 of every file that the tasks and the backbone ask for; stores and weights have hashes of their own."""
    parts = [experiment.backbone, *(part for task in experiment.tasks for part in (task.dataset, task))]
    apart = {experiment.backbone.weights, *experiment.feature_stores}
    paths = dict.fromkeys(file.path for part in parts for file in part.required_files())
    return {
        _name(path, experiment.data_root): sha256_of(path) for path in paths if path not in apart and path.is_file()
    }


def _name(path: Path, root: Path) -> str:
    """What a file is called wherever the data lie."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _short(digest: object) -> str:
    return str(digest)[:_SHOWN_DIGITS]
