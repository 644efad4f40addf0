"""Several processes that score: what one of them meets alone leaves no other waiting."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import matching_world as toy
import pytest
import torch
from matching_world import experiment

from vlrun import CheckpointError
from vlrun.engine.ranks import Ranks
from vlrun.plugins.manager import Plugins
from vlrun.runs import run as runs
from vlrun.runs.run import run_experiment
from vlrun.testing import run_ranks
from vlrun_retrieval.scorer import PairScorer


@pytest.mark.parametrize("options", [["train.epochs=0"], ["tasks.0.mines=true"]], ids=["evaluating", "mining"])
def test_a_score_that_is_no_number_on_one_process_ends_all(
    caption_world: Path, caption_plugins: Plugins, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    scores = PairScorer.scores

    def fail(scorer: PairScorer, *parts: Any) -> torch.Tensor:
        if torch.distributed.get_rank() == 1:
            raise CheckpointError("a score of this process alone")
        return scores(scorer, *parts)

    loaded = experiment(caption_world, caption_plugins, *options)

    def body(ranks: Ranks) -> Any:
        runs.join_ranks = lambda timeout, threads: nullcontext(ranks)
        monkeypatch.setattr(PairScorer, "scores", fail)
        return run_experiment(loaded, plugins=caption_plugins)

    monkeypatch.setattr(toy.ToyMatching, "sample_size", 0)
    with pytest.raises(AssertionError) as caught:
        run_ranks(body, caption_world, 2)
    assert str(caught.value).count("CheckpointError: a score of this process alone") == 2
