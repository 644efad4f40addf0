"""Two runs on the same examples: the difference of each score, and how sure it is.

The bootstrap is paired: examples are drawn anew, and both runs are scored on the same ones, so that what makes an
example hard for both cancels out (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlrun.config.experiment import load_experiment
from vlrun.engine.run_folder import RunFolder
from vlrun.errors import DataError, first_few
from vlrun.interfaces.examples import Score
from vlrun.interfaces.uncertainty import Units
from vlrun.plugins.manager import Plugins
from vlrun.reporting.options import shown
from vlrun.reporting.repeats import CHECKPOINT
from vlrun.reporting.run_record import RunRecord, read_run
from vlrun.runs.again import score_file
from vlrun.seeds import derive_seed

_AT_ONCE = 4_000_000  # numbers that are drawn at once
_SAME = 1e-9  # relative; a score that is computed again on the same data

Key = tuple[str, str, str]
"""Task, split and name of a score."""


@dataclass(frozen=True)
class Difference:
    """A score of two runs on the same examples.

    Attributes:
        unit: ``%`` or empty.
        units: how many examples, or other units, were drawn; 0 where the score is no mean, so that nothing is drawn.
        low, high: of the 95 % interval of ``second - first``; None without units.
        p: two-sided probability of a difference as large as this one, either way, if there is none; None likewise.
        protocols: entries in which the two protocols differ, with the values of both.
    """

    task: str
    split: str
    name: str
    unit: str
    first: float
    second: float
    units: int = 0
    low: float | None = None
    high: float | None = None
    p: float | None = None
    protocols: Mapping[str, tuple[Any, Any]] | None = None

    @property
    def value(self) -> float:
        """The second less the first."""
        return self.second - self.first

    def as_json(self) -> dict[str, Any]:
        """Everything about it."""
        return {**vars(self), "difference": self.value}


def compare_runs(
    first: Path, second: Path, plugins: Plugins, *, samples: int = 2_000, despite_protocols: bool = False
) -> list[Difference]:
    """The differences of all scores that both runs have, except those of groups among many.

    Args:
        first, second: run folders.
        samples: of the bootstrap.
        despite_protocols: also compare scores whose protocols differ.

    Raises:
        DataError: a run is not done; they share no score; protocols differ; or a score comes out otherwise than in the
            run, because annotations or predictions are no longer what they were.
    """
    records = (read_run(first), read_run(second))
    if problems := [f"{run.folder}: the run is {run.status}, not done" for run in records if run.status != "done"]:
        raise DataError(problems)
    theirs, ours = (_scores(run) for run in records)
    keys = [key for key in theirs if key in ours]
    if not keys:
        raise DataError(f"{first} and {second} share no score: {_listed(theirs)} here, {_listed(ours)} there")
    differing = {key: _differing(theirs[key], ours[key]) for key in keys}
    if any(differing.values()) and not despite_protocols:
        raise DataError(_refusal(differing))
    found = []
    for task, split in dict.fromkeys(key[:2] for key in keys):
        again = [_again(run, task, split, plugins) for run in records]
        for key in keys:
            if key[:2] == (task, split):
                units = [own[key[2]].units if key[2] in own else None for own in again]
                for run, own in zip(records, again, strict=True):
                    _check_same(run, key, own)
                found.append(_difference(key, theirs[key], ours[key], units, samples, differing[key]))
    return found


def _scores(run: RunRecord) -> dict[Key, Score]:
    return {(row.task, row.split, row.score.name): row.score for row in run.rows if not row.score.detail}


def _listed(scores: Mapping[Key, Score]) -> str:
    return ", ".join(first_few([" ".join(key) for key in scores], 3)) or "none"


def _differing(first: Score, second: Score) -> dict[str, tuple[Any, Any]]:
    one, other = first.protocol, second.protocol
    keys = [key for key in dict.fromkeys([*one, *other]) if key != CHECKPOINT]
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


def _refusal(differing: Mapping[Key, Mapping[str, tuple[Any, Any]]]) -> list[str]:
    """One line for each entry that differs, with the scores that it is of."""
    lines: dict[str, list[str]] = {}
    for (task, split, name), entries in differing.items():
        for key, (one, other) in entries.items():
            lines.setdefault(f"{key}: {shown(one)} in the first, {shown(other)} in the second", []).append(
                f"{task} {split} {name}"
            )
    return [
        "the two runs were not scored alike, so a difference says nothing about the models:",
        *(f"  {line} ({', '.join(first_few(scores, 2))})" for line, scores in lines.items()),
        "--despite-protocols compares them all the same, and says so",
    ]


def _again(run: RunRecord, task: str, split: str, plugins: Plugins) -> dict[str, Score]:
    """The scores of a split from the run's predictions, with their units, by name."""
    folder = RunFolder(run.folder)
    experiment = load_experiment(folder.config, plugins=plugins)
    path = run.folder / "predictions" / f"{task}_{split}.jsonl"
    return {score.name: score for score in score_file(experiment, split, path, plugins, task)[1]}


def _check_same(run: RunRecord, key: Key, again: Mapping[str, Score]) -> None:
    recorded, now = _scores(run)[key].value, again.get(key[2])
    if now is None or abs(now.value - recorded) > _SAME * max(1.0, abs(recorded)):
        raise DataError(
            f"{run.folder}: {' '.join(key)} is {recorded:g} in the run's results and "
            f"{'missing' if now is None else f'{now.value:g}'} when its predictions are scored now: annotations or "
            "predictions have changed since. Evaluate the run again: runner evaluate RUN"
        )


def _difference(
    key: Key,
    first: Score,
    second: Score,
    units: Sequence[Units | None],
    samples: int,
    protocols: Mapping[str, tuple[Any, Any]],
) -> Difference:
    common = (*key, first.unit, first.value, second.value)
    one, other = units
    if one is None or other is None or len(one.values) != len(other.values):
        return Difference(*common, protocols=protocols)
    drawn = np.concatenate([*bootstrap(one, other, samples, *key)])
    low, high = np.quantile(drawn, [0.025, 0.975])
    # each side with the observed difference itself, so that no probability is 0 (Davison and Hinkley 1997, 4.2.4)
    sides = [(1 + int(side.sum())) / (1 + samples) for side in (drawn <= 0, drawn >= 0)]
    p = min(1.0, 2 * min(sides))
    return Difference(*common, len(one.values), float(low), float(high), p, protocols)


def bootstrap(first: Units, second: Units, samples: int, *address: str) -> Iterator[np.ndarray]:
    """Differences of the two means, second less first, on units drawn anew; in parts, (n,) each, ``samples`` in all.

    The draws derive from ``address`` alone.
    """
    rng = np.random.Generator(np.random.Philox(derive_seed("compare", *address)))
    count = len(first.values)
    for start in range(0, samples, step := max(1, _AT_ONCE // count)):
        rows = rng.integers(count, size=(min(step, samples - start), count))
        yield _means(second, rows) - _means(first, rows)


def _means(units: Units, rows: np.ndarray) -> np.ndarray:
    sums = units.values[rows].sum(axis=1)
    if units.sizes is None:
        return np.asarray(sums / rows.shape[1])
    return np.asarray(sums / np.maximum(units.sizes[rows].sum(axis=1), 1e-12))
