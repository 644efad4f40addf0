"""A run that goes on with other groups of parameters: the same ones must train, and its results say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlrun.config.optimisation import ParameterGroup
from vlrun.engine.optimisation import plan_parameters
from vlrun.engine.run import Run
from vlrun.engine.run_folder import DATA
from vlrun.errors import ConfigError, first_few
from vlrun.foreign.yaml import parse_yaml
from vlrun.reporting.hashes import write_hashed_json
from vlrun.reporting.options import flat_options, shown

KEY = "parameter_groups"
"""In ``data.json``: the groups as they are now, and how they were changed; there once they were."""

MARK = "groups of parameters"


def mark_regrouping(run: Run, known: Mapping[str, Any]) -> None:
    """Compares the groups of a run that goes on with those before; scores, header and ``data.json`` tell of a change.

    Called on all ranks together.

    Args:
        known: what ``data.json`` of the run has said so far.

    Raises:
        ConfigError: other parameters would train.
    """
    record = run.ranks.from_main(lambda: _record(run, known))
    changes: Sequence[str] = record["changes"]
    if not changes:
        return
    for task_run in run.tasks:
        task_run.marks = {
            split: {**task_run.marks.get(split, {}), MARK: "; ".join(changes)} for split in task_run.splits
        }
    run.data_notes = [*run.data_notes, *(f"groups of parameters changed {change}" for change in changes)]
    if run.ranks.is_main:
        data = run.folder.read_data()
        for task_run in run.tasks:
            if task_run.name in data:
                data[task_run.name]["marks"] = {split: dict(mark) for split, mark in task_run.marks.items()}
        write_hashed_json(run.folder.path, DATA, {**data, KEY: record})


def _record(run: Run, known: Mapping[str, Any]) -> dict[str, Any]:
    now = run.experiment.model_dump(mode="json")["train"]["groups"]
    if KEY in known:
        before, changes = known[KEY]["now"], list(known[KEY]["changes"])
    else:
        started: Any = parse_yaml(run.folder.config.read_text(encoding="utf-8")).data
        before, changes = started["train"].get("groups") or [], []
    if before == now:
        return {"now": now, "changes": changes}
    old, new = (flat_options({"train": {"groups": groups}}) for groups in (before, now))
    differences = [
        f"{key}: {shown(old.get(key))} -> {shown(new.get(key))}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    _refuse_others(run, before)
    step = run.folder.read_status().get("step") or 0
    return {"now": now, "changes": [*changes, f"after step {step}: {', '.join(differences)}"]}


def _refuse_others(run: Run, before: Sequence[Mapping[str, Any]]) -> None:
    """Raises ConfigError if other parameters train than with the groups before."""
    groups = [ParameterGroup.model_validate(group) for group in before]
    trained, trains = (
        plan_parameters(run.model, each).trained() for each in (groups, list(run.experiment.train.groups))
    )
    problems = [
        f"  {what}: {', '.join(first_few(sorted(names), 3))}"
        for what, names in (("would train now", trains - trained), ("would not train any more", trained - trains))
        if names
    ]
    if problems:
        raise ConfigError(
            [
                f"train.groups: {run.folder.path} was trained with other parameters:",
                *problems,
                "A run goes on with other groups of the same ones; to train others, start from its weights "
                "(backbone.weights=run:NAME).",
            ]
        )
