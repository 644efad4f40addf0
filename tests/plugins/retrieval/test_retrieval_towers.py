"""Two towers: every text with every image by one product of matrices, with the scores of each pair on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matching_world as toy
import numpy as np
import pytest
from matching_world import TowerBackbone, experiment
from toy_world import NUM_IMAGES

from vlrun import load_run
from vlrun.features.store import RegionFeatureStore
from vlrun.plugins.manager import Plugins
from vlrun.runs.run import run_experiment
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.hard_negatives import draw_candidates
from vlrun_retrieval.sizes import TOWER_PAIRS, TOWER_TEXTS

TOWERS = ("backbone.name=towers", "tasks.0.pairs_per_batch=null", "tasks.0.dataset.evaluate=[test]")


def test_the_matrix_is_that_of_every_pair_on_its_own(
    caption_world: Path, caption_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs_alone: list[int] = []
    pooled_output = TowerBackbone.pooled_output

    def counting(backbone: Any, text: Any, regions: Any) -> Any:
        if not backbone.training:
            pairs_alone.append(len(text["vector"]))
        return pooled_output(backbone, text, regions)

    monkeypatch.setattr(TowerBackbone, "pooled_output", counting)
    result = run_experiment(experiment(caption_world, caption_plugins, *TOWERS), plugins=caption_plugins)

    folder = result.folder
    loaded = load_run(folder, plugins=caption_plugins)
    assert pairs_alone
    assert set(pairs_alone) == {4}, "only the pairs of the sample, twice for each evaluation"
    task, dataset = loaded.task_run.task, toy.Captions(loaded.task_run.config.dataset, "test")
    store = RegionFeatureStore(caption_world / "data" / "toys.lmdb")
    expected = toy.brute_force(loaded.run.model.backbone, task, store.read, dataset)  # type: ignore[arg-type]
    assert np.load(folder / "scores" / "matching_test.npy") == pytest.approx(expected, abs=1e-5)


def test_tiles_are_as_large_as_a_product_of_matrices_is_cheap(
    caption_world: Path, caption_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, int]] = []
    monkeypatch.setattr("vlrun_retrieval.pool.TilePlan", lambda *_, **sizes: seen.append(sizes) or pytest.skip("seen"))
    with pytest.raises(pytest.skip.Exception):
        run_experiment(experiment(caption_world, caption_plugins, *TOWERS), plugins=caption_plugins)
    assert (seen[0]["pairs_per_batch"], seen[0]["texts_per_group"]) == (TOWER_PAIRS, TOWER_TEXTS)


def test_towers_mine_the_hardest_of_what_is_drawn(caption_world: Path, caption_plugins: Plugins) -> None:
    options = [*TOWERS, "train.epochs=1", "tasks.0.mines=true"]
    result = run_experiment(experiment(caption_world, caption_plugins, *options), plugins=caption_plugins)

    loaded = load_run(result.folder, plugins=caption_plugins)
    task, dataset = loaded.task_run.task, toy.Captions(loaded.task_run.config.dataset, "train")
    pool = CandidatePool.of(dataset)
    from vlrun.engine.stopping import StopRequest
    from vlrun.runs.questions import AskedRegions, QuestionView
    from vlrun_retrieval.mining import MiningPlan, mine_negatives

    view = QuestionView(loaded.run, loaded.task_run, StopRequest(), AskedRegions(loaded.store, {}))
    mined = mine_negatives(task, view, pool, MiningPlan(0, candidates=6, keep=2))  # type: ignore[arg-type]
    store = RegionFeatureStore(caption_world / "data" / "toys.lmdb")
    scores = toy.brute_force(loaded.run.model.backbone, task, store.read, dataset)  # type: ignore[arg-type]
    for row in range(len(pool.image_ids)):
        drawn = draw_candidates(pool, view.seed, 0, "image", row, 6)
        best = np.sort(scores[row, drawn])[::-1][:2]
        assert scores[row, mined.texts_of_images[row]] == pytest.approx(best, abs=1e-5)


def test_asked_images_are_ranked_without_probabilities(caption_world: Path, caption_plugins: Plugins) -> None:
    result = run_experiment(
        experiment(caption_world, caption_plugins, *TOWERS, "train.epochs=1"), plugins=caption_plugins
    )
    run = load_run(result.folder, plugins=caption_plugins)
    images = [f"img{number}" for number in range(NUM_IMAGES)]

    choices = run.ask("1 2 3", images, top=len(images)).choices

    assert sorted(choice.text for choice in choices) == sorted(images)
    assert {choice.probability for choice in choices} == {None}
