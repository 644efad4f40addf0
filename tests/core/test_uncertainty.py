"""Standard errors: exact for means, by bootstrap for the rest, the same everywhere; none is made up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world as toy
from toy_runs import experiment, lines, ranks_run

from vlrun import Score, error_by_resampling, error_of_mean
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment


def test_the_error_of_a_mean_is_the_deviation_over_the_root_of_n() -> None:
    values = np.random.default_rng(0).random(50)
    assert error_of_mean(values) == pytest.approx(values.std(ddof=1) / math.sqrt(50), rel=1e-12)
    hits = [True] * 30 + [False] * 10
    assert error_of_mean(hits) == pytest.approx(math.sqrt(0.75 * 0.25 / 39), rel=1e-12)


def test_one_example_says_nothing_about_others() -> None:
    assert error_of_mean([1.0]) is None
    assert error_of_mean([]) is None
    assert error_of_mean([0, 0], [0, 0]) is None
    assert error_by_resampling(1, lambda rows: 0.0) is None
    assert Score.mean("accuracy", [True]).standard_error is None


def test_items_that_come_in_groups_are_no_independent_examples() -> None:
    hits = np.repeat(np.random.default_rng(1).random(40) < 0.6, 25)  # each group right or wrong as a whole
    by_group = hits.reshape(40, 25)
    grouped = error_of_mean(by_group.sum(1), [25] * 40)
    assert grouped == pytest.approx(error_of_mean(by_group.mean(1)), rel=1e-12)
    assert grouped == pytest.approx(5 * error_of_mean(hits), rel=0.02)  # sqrt(25); as if there were 1,000 of them


def test_the_error_by_groups_of_any_size_is_that_of_drawing_groups_anew() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 9, 60)
    sums = rng.binomial(sizes, 0.5 + 0.4 * rng.random(60))
    drawn = [sums[rows].sum() / sizes[rows].sum() for rows in rng.integers(60, size=(4000, 60))]
    assert error_of_mean(sums, sizes) == pytest.approx(np.std(drawn), rel=0.05)


def test_resampling_agrees_with_what_is_exact_and_draws_the_same_every_time() -> None:
    values = np.random.default_rng(3).random(200)
    error = error_by_resampling(200, lambda rows: float(values[rows].mean()), "val", "accuracy")
    assert error == pytest.approx(error_of_mean(values), rel=0.12)
    assert error == error_by_resampling(200, lambda rows: float(values[rows].mean()), "val", "accuracy")
    assert error != error_by_resampling(200, lambda rows: float(values[rows].mean()), "test", "accuracy")


def test_a_mean_has_value_count_and_error_in_its_unit() -> None:
    score = Score.mean("accuracy", [1.0, 0.3, 0.0, 1.0], {"split": "val"}, primary=True)
    assert (score.value, score.count, score.unit, score.primary) == (pytest.approx(57.5), 4, "%", True)
    assert score.standard_error == pytest.approx(100 * error_of_mean([1.0, 0.3, 0.0, 1.0]))
    ranks = Score.mean("rank", [1, 3, 8], unit="", higher_is_better=False)
    assert (ranks.value, ranks.standard_error) == (4.0, error_of_mean([1, 3, 8]))


def scored_by_mean(self: toy.Accuracy, predictions: Any, dataset: Any) -> list[Score]:
    right = [prediction.fields["answer"] == dataset[row].target for row, prediction in enumerate(predictions)]
    return [Score.mean("accuracy", right, {"split": dataset.split}, primary=True)]


def test_results_keep_it_and_any_number_of_processes_finds_the_same(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.Accuracy, "__call__", scored_by_mean)
    result = run_experiment(experiment(world, plugins, "train.micro_batches=2"), plugins=plugins)
    stored = [row["standard_error"] for row in lines(result, "result")]
    assert len(stored) > 2
    assert all(error > 0 for error in stored)
    assert [row.score.standard_error for row in result.rows] == stored[-len(result.rows) :]
    (_, two), _ = ranks_run(world, plugins, 2, "train.micro_batches=2")
    assert [score.standard_error for _, score in two] == stored[-len(result.rows) :]


def test_a_metric_that_gives_no_error_gets_none(world: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(world, plugins), plugins=plugins)
    assert {row.score.standard_error for row in result.rows} == {None}
    assert all("standard_error" not in row for row in lines(result, "result"))
    assert "±" not in json.dumps((result.folder / "metrics.jsonl").read_text())
