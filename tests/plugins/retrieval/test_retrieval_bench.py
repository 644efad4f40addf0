"""What ``runner bench`` tells of retrieval."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from matching_world import experiment

from vlrun import CheckpointError
from vlrun.engine.ranks import Ranks
from vlrun.interfaces.reporter import Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs.bench.measure import BenchOptions, measure
from vlrun_retrieval import bench
from vlrun_retrieval.scorer import PairScorer


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pairs_are_scored_beside_a_plain_loop(caption_world: Path, caption_plugins: Plugins, precision: str) -> None:
    rows = {row.what: row for row in measured(caption_world, caption_plugins, f"train.precision={precision}")}
    assert rows.keys() > {"pairs", bench.PLAIN, "texts, each once", "images, each once"}
    assert all(math.isfinite(row.value) and row.value > 0 for row in rows.values())
    assert rows["pairs"].ratios == {bench.PLAIN: pytest.approx(rows["pairs"].value / rows[bench.PLAIN].value)}


def measured(world: Path, plugins: Plugins, *overrides: str) -> list[bench.Measurement]:
    record = measure(
        lambda more: experiment(world, plugins, *overrides, *more),
        BenchOptions(steps=1, parts=["task"]),
        plugins,
        Ranks(0, 1, torch.device("cpu")),
        Reporters([]),
    )
    return [row for case in record.cases for row in case.rows]


def test_a_fast_way_to_other_scores_says_nothing(
    caption_world: Path, caption_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PairScorer.all_pairs
    monkeypatch.setattr(PairScorer, "all_pairs", lambda *arguments: whole(*arguments) + 0.01)
    with pytest.raises(CheckpointError, match="the engine and of forward"):
        measured(caption_world, caption_plugins)
