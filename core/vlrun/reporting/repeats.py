"""Runs of one recipe with several seeds: mean, deviation and the single values of each score."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrun.foreign.printing import plain
from vlrun.interfaces.reporter import ResultRow
from vlrun.reporting.options import is_recipe, portable_options
from vlrun.reporting.run_record import RunRecord
from vlrun.reporting.tables import TextTable
from vlrun.reporting.wording import score_text

CHECKPOINT = "checkpoint"
"""The entry of a protocol that names the step at which a run was best: runs of one recipe differ in it."""

_STAGE = re.compile(r"([^/]+)/[^/]+/weights/(best|last)_\d+\.safetensors$")


@dataclass(frozen=True)
class RepeatedScore:
    """A score of runs that differ in their seed alone.

    Attributes:
        unit: ``%`` or empty.
        values: seed -> value, of two seeds at least.
    """

    experiment: str
    task: str
    split: str
    name: str
    unit: str
    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values.values())

    @property
    def deviation(self) -> float:
        """The standard deviation over seeds, as of a sample (n - 1)."""
        return statistics.stdev(self.values.values())

    def as_json(self) -> dict[str, Any]:
        """The score with everything that tables say of it."""
        own = {name: value for name, value in vars(self).items() if name != "values"}
        values = {str(seed): value for seed, value in self.values.items()}
        return {**own, "seeds": len(values), "mean": self.mean, "standard_deviation": self.deviation, "values": values}


def repeated_scores(runs: Sequence[RunRecord]) -> list[RepeatedScore]:
    """The scores of all runs of which there are some with another seed, and equal in everything else.

    Of several finished runs with one seed the newest counts. Scores under different protocols are not put together, and
    a run whose configuration tells no seed stands alone.
    """
    groups: dict[str, dict[int, RunRecord]] = {}
    for run in sorted(runs, key=lambda run: run.folder.name):
        seed = run.config.get("seed")
        if run.status == "done" and isinstance(seed, int):
            groups.setdefault(_recipe(run), {})[seed] = run
    return [score for of_seed in groups.values() if len(of_seed) > 1 for score in _scores(of_seed)]


def repeat_table(scores: Sequence[RepeatedScore]) -> TextTable:
    """One line for each score."""
    rows = [
        [
            score.experiment,
            score.task,
            score.split,
            score.name,
            str(len(score.values)),
            f"{score_text(score.mean, score.unit)} ± {score_text(score.deviation, score.unit)}",
            ", ".join(f"{score_text(value, score.unit)} ({seed})" for seed, value in sorted(score.values.items())),
        ]
        for score in scores
    ]
    headers = ["experiment", "task", "split", "score", "seeds", "mean ± deviation", "values (seed)"]
    note = "deviation: standard deviation over seeds, as of a sample"
    return TextTable(headers, [[plain(cell) for cell in row] for row in rows], ("seeds", "mean ± deviation"), [note])


def _scores(runs: Mapping[int, RunRecord]) -> Iterator[RepeatedScore]:
    found: dict[tuple[str, ...], dict[int, ResultRow]] = {}
    for seed, run in runs.items():
        for row in run.rows:
            if not row.score.detail:
                key = (row.task, row.split, row.score.name, row.score.unit, _protocol(row))
                found.setdefault(key, {})[seed] = row
    experiment = next(iter(runs.values())).experiment
    for (task, split, name, unit, _), rows in found.items():
        if len(rows) > 1:
            yield RepeatedScore(
                experiment, task, split, name, unit, {seed: row.score.value for seed, row in rows.items()}
            )


def _recipe(run: RunRecord) -> str:
    """What runs must share to be of one recipe; a stage that a run starts from counts by its name."""
    options = {key: value for key, value in portable_options(run.config).items() if is_recipe(key)}
    weights = str(options.get("backbone.weights") or portable_options(run.config).get("backbone.weights"))
    stage = _STAGE.search(weights)
    options["backbone.weights"] = weights if stage is None else f"run:{stage[1]}@{stage[2]}"
    return json.dumps([run.experiment, run.is_demo, options], sort_keys=True, default=str)


def _protocol(row: ResultRow) -> str:
    protocol = {key: value for key, value in row.score.protocol.items() if key != CHECKPOINT}
    return json.dumps(protocol, sort_keys=True, default=str)
