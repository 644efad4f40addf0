"""``runner compare``: differences with intervals, what cannot be compared, and draws that depend on nothing else."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world as toy
from toy_runs import experiment

from vlrun import Score, Units
from vlrun.cli import main
from vlrun.engine.run_folder import RunFolder
from vlrun.errors import DataError
from vlrun.plugins.manager import Plugins
from vlrun.runs.compare import bootstrap, compare_runs
from vlrun.runs.run import run_experiment


@pytest.fixture
def pair(world: Path, plugins: Plugins) -> tuple[Path, Path]:
    """Two runs of the toys, trained with different seeds."""
    first, second = (
        run_experiment(experiment(world, plugins, "train.epochs=1", f"seed={seed}"), plugins=plugins).folder
        for seed in (1, 2)
    )
    return first, second


def change(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(re.sub(r', "crc32": "\w+"', "", text))  # of a line that is not as it was written


def test_each_score_has_a_difference_with_an_interval(pair: tuple[Path, Path], plugins: Plugins) -> None:
    found = compare_runs(*pair, plugins)
    assert [(each.task, each.split, each.name) for each in found] == [
        ("match", "val", "accuracy"),
        ("match", "test", "accuracy"),
    ]
    for each in found:
        assert each.units > 1
        assert each.low is not None
        assert each.high is not None
        assert each.p is not None
        assert each.low <= each.value <= each.high
        assert 0 < each.p <= 1
    assert found == compare_runs(*pair, plugins)
    mirrored = compare_runs(*reversed(pair), plugins)
    assert [each.value for each in mirrored] == [-each.value for each in found]


def test_a_run_does_not_differ_from_itself(pair: tuple[Path, Path], plugins: Plugins) -> None:
    for each in compare_runs(pair[0], pair[0], plugins):
        assert (each.value, each.low, each.high, each.p) == (0, 0, 0, 1)


def test_the_interval_is_that_of_the_paired_differences() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=2_000)
    first, second = Units(hard + 0.1 * rng.normal(size=2_000)), Units(0.02 + hard + 0.1 * rng.normal(size=2_000))
    drawn = np.concatenate([*bootstrap(first, second, 1_000, "a")])
    assert len(drawn) == 1_000
    differences = second.values - first.values
    assert drawn.mean() == pytest.approx(differences.mean(), abs=4 * differences.std() / np.sqrt(2_000 * 1_000))
    assert drawn.std() == pytest.approx(differences.std() / np.sqrt(2_000), rel=0.1)
    np.testing.assert_array_equal(drawn, np.concatenate([*bootstrap(first, second, 1_000, "a")]))
    assert not np.array_equal(drawn, np.concatenate([*bootstrap(first, second, 1_000, "b")]))


def test_items_in_groups_weigh_by_their_number() -> None:
    values, sizes = np.array([0.0, 300.0, 100.0]), np.array([1.0, 3.0, 2.0])
    (drawn,) = bootstrap(Units(values, sizes), Units(np.zeros(3), sizes), 500, "a")
    whole = {-values[list(rows)].sum() / sizes[list(rows)].sum() for rows in product(range(3), repeat=3)}
    assert set(np.round(drawn, 9)) == {round(value, 9) for value in whole}


def test_different_protocols_are_refused_unless_asked_for(pair: tuple[Path, Path], plugins: Plugins) -> None:
    change(pair[1] / "metrics.jsonl", ('"split": "val"', '"split": "val", "iou_rule": "plus one"'))
    with pytest.raises(DataError, match="not scored alike") as caught:
        compare_runs(*pair, plugins)
    assert "iou_rule: (none) in the first, plus one in the second (match val accuracy)" in str(caught.value)
    found = compare_runs(*pair, plugins, despite_protocols=True)
    assert found[0].protocols == {"iou_rule": (None, "plus one")}
    assert not found[1].protocols


def test_predictions_that_have_changed_are_noticed(pair: tuple[Path, Path], plugins: Plugins) -> None:
    path = pair[0] / "predictions" / "match_val.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["answer"] = 1 - lines[0]["answer"]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(DataError, match=r"match val accuracy is .* in the run's results and .* scored now"):
        compare_runs(*pair, plugins)


def test_a_run_that_is_not_done_is_refused(pair: tuple[Path, Path], plugins: Plugins) -> None:
    RunFolder(pair[1]).write_status(status="stopped")
    with pytest.raises(DataError, match="the run is stopped, not done"):
        compare_runs(*pair, plugins)


def test_a_score_that_is_no_mean_has_a_difference_alone(
    pair: tuple[Path, Path], plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = toy.Accuracy.__call__

    def without_units(self: Any, *arguments: Any) -> list[Score]:
        return [Score(each.name, each.value, count=each.count) for each in score(self, *arguments)]

    monkeypatch.setattr(toy.Accuracy, "__call__", without_units)
    (each, _) = compare_runs(*pair, plugins)
    assert (each.units, each.low, each.p) == (0, None, None)


def test_the_verb_prints_a_table_and_json(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], install: Any
) -> None:
    install("vlrun-toys", "from toy_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n")
    words = ["compare", *map(str, pair), "--samples", "200"]
    assert main(words) == 0
    assert "95 % interval" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in content["differences"]] == ["accuracy", "accuracy"]
    assert main(["compare", str(pair[0]), str(pair[1].parent)]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert main([*words[:3], "--samples", "1"]) == 2
