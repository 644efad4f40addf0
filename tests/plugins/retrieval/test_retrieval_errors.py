"""Standard errors of recalls, ranks and their sums."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vlrun import Score
from vlrun.testing import check_metric
from vlrun_retrieval import metric, ranking
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.metric import RetrievalMetric, pool_predictions
from vlrun_retrieval.ranking import PROTOCOLS, Protocol, rank_pool

IMAGES, CAPTIONS = 60, 3
OWNER = np.repeat(np.arange(IMAGES), CAPTIONS)
POOL = CandidatePool(
    tuple(f"i{row}" for row in range(IMAGES)),
    tuple(f"t{row}" for row in range(len(OWNER))),
    ("",) * len(OWNER),
    OWNER,
)


@pytest.fixture(scope="module")
def matrix() -> Any:
    """Scores that are right for some images and wrong for others."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(IMAGES, len(OWNER)))
    scores[OWNER, np.arange(len(OWNER))] += np.repeat(rng.normal(1.5, 1.5, IMAGES), CAPTIONS)
    return scores


def scored(matrix: Any, protocol: Protocol = PROTOCOLS["all"]) -> dict[str, Score]:
    dataset: Any = SimpleNamespace(protocol={}, split="test")
    judge = RetrievalMetric([protocol.name], "optimistic", {}, lambda dataset: POOL)
    return {score.name: score for score in judge(pool_predictions(matrix, POOL, [protocol]), dataset)}


def test_the_metric_keeps_its_promises(matrix: Any) -> None:
    dataset: Any = SimpleNamespace(protocol={"dataset": "captions"}, split="test")
    judge = RetrievalMetric(["all"], "optimistic", {}, lambda dataset: POOL)
    check_metric(judge, dataset, pool_predictions(matrix, POOL, [PROTOCOLS["all"]]))


def test_a_recall_is_a_mean_over_its_queries(matrix: Any) -> None:
    scores = scored(matrix)
    for name, queries in (("IR R@1", len(OWNER)), ("TR R@5", IMAGES)):
        share = scores[name].value / 100
        error = 100 * np.sqrt(share * (1 - share) / (queries - 1))
        assert 0 < share < 1
        assert (scores[name].standard_error, scores[name].count) == (pytest.approx(error), queries)
    assert all(score.standard_error is not None for score in scores.values())


def test_the_sum_of_recalls_varies_as_with_images_drawn_anew(matrix: Any) -> None:
    scores = scored(matrix)
    ranks = rank_pool(matrix, OWNER)
    images, texts = (
        100 * sum(queries.better < limit for limit in (1, 5, 10))
        for queries in (ranks.text_retrieval, ranks.image_retrieval)
    )
    of_images = texts.reshape(IMAGES, CAPTIONS).mean(1)
    drawn = np.random.default_rng(1).integers(IMAGES, size=(4000, IMAGES))
    sums = images[drawn].mean(1) + of_images[drawn].mean(1)
    assert scores["rsum"].value == pytest.approx(images.mean() + of_images.mean())
    assert scores["rsum"].standard_error == pytest.approx(sums.std(), rel=0.05)
    assert scores["mean recall"].standard_error == pytest.approx(scores["rsum"].standard_error / 6)
    medians = np.floor(np.median(ranks.text_retrieval.better[drawn], axis=1))
    assert scores["TR median rank"].standard_error == pytest.approx(medians.std(), rel=0.12)


def test_the_mean_over_folds_is_known_better_than_one_fold(matrix: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folds = Protocol("folds", "", folds=3, images_per_fold=20)
    for module in (metric, ranking):
        monkeypatch.setattr(module, "PROTOCOLS", {**PROTOCOLS, "folds": folds})
    score = scored(matrix, folds)["TR R@1"]
    hits = [rank_pool(matrix, OWNER, part).text_retrieval.better < 1 for part in folds.pools(OWNER, IMAGES)]
    errors = [100 * own.std(ddof=1) / np.sqrt(20) for own in hits]
    assert score.value == pytest.approx(100 * np.mean(hits))
    assert score.standard_error == pytest.approx(np.sqrt(np.square(errors).sum()) / 3)
