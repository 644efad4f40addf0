"""What a reader is told about a query: what was asked, what came first, and where the right candidate is."""

from __future__ import annotations

import numpy as np
import pytest

from vlrun import Prediction, View
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.cases import query_cases
from vlrun_retrieval.metric import pool_predictions
from vlrun_retrieval.ranking import PROTOCOLS, TiePolicy

POOL = CandidatePool(("a", "b"), ("a0", "a1", "b0"), ("a dog", "a cat", "a bird"), np.array([0, 0, 1]))
SCORES = np.array([[0.9, 0.2, 0.5], [0.1, 0.8, 0.5]])
"""The first text finds its image, the second does not, the third is tied."""


def test_texts_look_for_images_and_images_for_texts() -> None:
    protocols = [PROTOCOLS["all"], PROTOCOLS["first-caption"]]
    predictions = pool_predictions(SCORES, POOL, protocols)
    dog, cat, bird, a, b = query_cases(predictions, POOL, "stable_low_index_first")
    assert (dog.texts, dog.truth, dog.credit) == (("a dog",), {"image": "a", "rank": {"all": 1, "first-caption": 1}}, 1)
    assert dog.views == (View("a", "right"),)
    assert (cat.truth, cat.credit) == ({"image": "a", "rank": {"all": 2}}, 0)
    assert cat.views == (View("b", "ranked first"), View("a", "right"))
    assert (cat.predicted, cat.right) == ("image b", "image a (rank 2)")
    assert bird.truth["rank"]["all"] == 2
    assert {case.question for case in (dog, cat, bird)} == {"image retrieval"}
    assert (a.image_ids, a.truth["texts"], a.credit, a.question) == (("a",), ["a0", "a1"], 1, "text retrieval")
    assert a.items == {"a0": "a dog", "b0": "a bird", "a1": "a cat"}
    assert (b.predicted, b.right, b.credit) == ("a cat", "a bird (rank 2 and 1)", 0)


@pytest.mark.parametrize(("ties", "rank"), [("optimistic", 1), ("pessimistic", 2)])
def test_ranks_follow_the_policy_on_ties(ties: TiePolicy, rank: int) -> None:
    predictions = pool_predictions(SCORES, POOL, [PROTOCOLS["all"]])
    assert [*query_cases(predictions, POOL, ties)][2].truth["rank"] == {"all": rank}


def test_predictions_of_something_else_are_left_alone() -> None:
    (case,) = query_cases([Prediction("x", {"score": 1.0})], POOL, "optimistic")
    assert (case.context(), case.credit) == ({}, None)
    (known,) = query_cases([Prediction("a0", {"score": 1.0})], POOL, "optimistic")
    assert (known.truth, known.credit, known.predicted) == ({"image": "a", "rank": {}}, None, "nothing")
