"""Ranks and scores of retrieval: equal to the golden values under every tie policy and protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlrun import DataError
from vlrun_retrieval.ranking import PROTOCOLS, TIE_POLICIES, DirectionScores, Protocol, evaluate_retrieval, rank_pool

NAMES = {
    "r1": "r1",
    "r5": "r5",
    "r10": "r10",
    "median_rank": "median_rank_floor_plus1",
    "median_rank_plain": "median_rank_plain",
    "mean_rank": "mean_rank",
}


class Case:
    """A score matrix with its owners and the golden values."""

    def __init__(self, folder: Path, name: str) -> None:
        self.expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())[name]
        self.scores = np.load(folder / f"{name}.scores.npy")
        images, captions = self.scores.shape
        owner = self.expected["caption_to_image"]
        regular = isinstance(owner, str)  # such as "caption c belongs to image c // 5"
        self.owner = np.arange(captions) // int(owner.rpartition("//")[2]) if regular else np.array(owner)
        self.shape = images, captions


def cases(folder: Path, key: str = "shape") -> list[str]:
    """The cases whose expected values have ``key``; all of them have a shape."""
    found = [name for name, case in json.loads((folder / "expected.json").read_text()).items() if key in case]
    assert found
    return found


@pytest.fixture
def folder(golden: Path) -> Path:
    return golden / "metrics/retrieval"


def assert_direction(found: DirectionScores, expected: dict[str, float]) -> None:
    assert {theirs: getattr(found, ours) for ours, theirs in NAMES.items()} == pytest.approx(
        {theirs: expected[theirs] for theirs in NAMES.values()}, abs=1e-9
    )


def recalls(scores: DirectionScores) -> list[float]:
    return [scores.r1, scores.r5, scores.r10]


def golden_numbers(arrays: Any, name: str) -> list[float]:
    return [float(arrays[f"{name}/{key}"]) for key in ("r1", "r5", "r10", "medr", "meanr")]


def random_case(seed: int = 0, images: int = 23, captions: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Scores without ties, owners in any order; every image has a caption."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.concatenate([np.arange(images), rng.integers(images, size=captions - images)]))
    return rng.permutation(images * captions).reshape(images, captions).astype(np.float32), owner


def ranks_by_sorting(scores: np.ndarray, owner: np.ndarray) -> tuple[list[int], list[int]]:
    """The obvious way: sort every row and every column."""
    orders = np.argsort(-scores, axis=1, kind="stable")
    of_images = [int(np.flatnonzero(owner[order] == row)[0]) for row, order in enumerate(orders)]
    orders = np.argsort(-scores.T, axis=1, kind="stable")
    return of_images, [int(np.flatnonzero(order == row)[0]) for order, row in zip(orders, owner, strict=True)]


# --- golden values ---


@pytest.mark.golden
@pytest.mark.parametrize("ties", TIE_POLICIES)
def test_scores_equal_the_golden_ones_under_every_tie_policy(folder: Path, ties: Any) -> None:
    for name in cases(folder):
        case = Case(folder, name)
        expected = case.expected[ties] if case.expected["has_ties"] else case.expected["value"]
        found = evaluate_retrieval(case.scores, case.owner, ties=ties)
        assert_direction(found.text_retrieval, expected["image_to_text"])
        assert_direction(found.image_retrieval, expected["text_to_image"])
        assert found.rsum == pytest.approx(expected["rsum"]), name
        assert (found.text_retrieval.queries, found.image_retrieval.queries) == case.shape
        tied = found.text_retrieval.tied_queries + found.image_retrieval.tied_queries
        assert (tied > 0) == case.expected["has_ties"], name


@pytest.mark.golden
def test_ranks_equal_the_golden_ones_for_every_query(folder: Path) -> None:
    for name in cases(folder):
        case = Case(folder, name)
        found = rank_pool(case.scores, case.owner)
        expected = case.expected["ranks_0_based"]
        assert found.text_retrieval.ranks().tolist() == expected["image_to_text"], name
        assert found.image_retrieval.ranks().tolist() == expected["text_to_image"], name


@pytest.mark.golden
def test_folds_are_ranked_apart_and_averaged(folder: Path) -> None:
    for name in cases(folder, "folds"):
        case = Case(folder, name)
        images, captions = case.shape
        folds, each = len(case.expected["folds"]), captions // images
        size = images // folds
        protocol = Protocol("folds", "folds", captions_per_image=each, folds=folds, images_per_fold=size)
        found = evaluate_retrieval(case.scores, case.owner, protocol)
        expected = case.expected["fold_mean"]
        assert_direction(found.text_retrieval, expected["image_to_text"])
        assert_direction(found.image_retrieval, expected["text_to_image"])
        assert found.rsum == pytest.approx(expected["rsum"])
        assert found.pools == ((size, size * each),) * folds
        assert (found.text_retrieval.queries, found.image_retrieval.queries) == case.shape, "of all folds together"
        pools = protocol.pools(case.owner, images)
        for pool, fold in zip(pools, case.expected["folds"], strict=True):
            ranks = rank_pool(case.scores, case.owner, pool).image_retrieval.ranks()
            assert ranks.mean() + 1 == pytest.approx(fold["text_to_image"]["mean_rank"])


@pytest.mark.golden
@pytest.mark.parametrize("setting", ["zero_shot", "finetuned"])
def test_ranks_of_lxmert_s_on_small_matrices(golden: Path, setting: str) -> None:
    arrays = np.load(golden / "lxmert_s/retrieval_eval.npz")
    captions_first = arrays[f"ir_{setting}/score_matrix"]
    of_images = evaluate_retrieval(captions_first.T, arrays["ir/gt_image"]).image_retrieval
    assert rank_pool(captions_first.T, arrays["ir/gt_image"]).image_retrieval.ranks().tolist() == list(
        arrays[f"ir_{setting}/rank_matrix"]
    )
    owner = np.argsort(arrays["tr/gt_caption"])  # one caption per image
    scores = arrays[f"tr_{setting}/score_matrix"]
    of_captions = evaluate_retrieval(scores, owner, PROTOCOLS["first-caption"]).text_retrieval
    assert rank_pool(scores, owner).text_retrieval.ranks().tolist() == list(arrays[f"tr_{setting}/rank_matrix"])
    for found, name in ((of_images, f"ir_{setting}"), (of_captions, f"tr_{setting}")):
        assert [*recalls(found), found.median_rank, found.mean_rank] == pytest.approx(golden_numbers(arrays, name))


def recipe(seed: int, right: np.ndarray, columns: int) -> np.ndarray:
    """The matrix of LXMERT-S's full-size case: a permutation per row, the right item moved near the top."""
    random = np.random.RandomState(seed)
    rows = []
    for column in right:
        row = random.permutation(columns)
        place = int(np.flatnonzero(row == columns - 1 - int(columns * random.random_sample() ** 6))[0])
        row[[place, column]] = row[[column, place]]
        rows.append(row)
    return np.array(rows, np.int16)


@pytest.mark.golden
def test_ranks_of_lxmert_s_at_full_size(golden: Path) -> None:
    arrays = np.load(golden / "lxmert_s/retrieval_eval_full.npz")
    seed, captions, images = int(arrays["seed"]), len(arrays["ir/rank"]), len(arrays["ir/first_row_scores"])
    owner = np.arange(captions) // (captions // images)
    scores = recipe(seed, owner, images)
    assert scores[0].tolist() == arrays["ir/first_row_scores"].tolist()
    ranks = rank_pool(scores.T, owner).image_retrieval.ranks()
    assert ranks.tolist() == arrays["ir/rank"].tolist()
    found = evaluate_retrieval(scores.T, owner).image_retrieval
    assert [*recalls(found), found.median_rank, found.mean_rank] == pytest.approx(golden_numbers(arrays, "ir"))

    scores = recipe(seed + 2, arrays["tr/gt_caption"], len(arrays["tr/gt_caption"]))
    owner = np.argsort(arrays["tr/gt_caption"])
    assert rank_pool(scores, owner).text_retrieval.ranks().tolist() == arrays["tr/rank"].tolist()
    found = evaluate_retrieval(scores, owner).text_retrieval
    assert [*recalls(found), found.median_rank, found.mean_rank] == pytest.approx(golden_numbers(arrays, "tr"))


@pytest.mark.golden
def test_ranks_of_rosita(golden: Path) -> None:
    arrays = np.load(golden / "rosita/itr.npz")
    scores = arrays["recall/score_matrix"]
    images, captions = scores.shape
    owner = np.arange(captions) // (captions // images)
    ranks = rank_pool(scores, owner)
    assert ranks.text_retrieval.ranks().tolist() == arrays["recall/rank_of_best_caption_per_image"].tolist()
    assert ranks.image_retrieval.ranks().tolist() == arrays["recall/rank_of_image_per_caption"].tolist()
    found = evaluate_retrieval(scores, owner)
    assert recalls(found.text_retrieval) == pytest.approx(arrays["recall/TR_r1_r5_r10_percent"].tolist())
    assert recalls(found.image_retrieval) == pytest.approx(arrays["recall/IR_r1_r5_r10_percent"].tolist())


# --- properties ---


@pytest.mark.parametrize("seed", range(5))
def test_counting_agrees_with_sorting(seed: int) -> None:
    scores, owner = random_case(seed)
    scores = scores // (1 + 200 * seed)  # from no ties to very many
    found = rank_pool(scores, owner)
    assert (found.text_retrieval.ranks().tolist(), found.image_retrieval.ranks().tolist()) == ranks_by_sorting(
        scores, owner
    )


def test_the_order_of_candidates_changes_nothing_without_ties() -> None:
    scores, owner = random_case()
    order = np.random.default_rng(1).permutation(len(owner))
    plain, permuted = rank_pool(scores, owner), rank_pool(scores[:, order], owner[order])
    assert permuted.text_retrieval.ranks().tolist() == plain.text_retrieval.ranks().tolist()
    assert permuted.image_retrieval.ranks().tolist() == plain.image_retrieval.ranks()[order].tolist()
    rows = np.random.default_rng(2).permutation(len(scores))
    permuted = rank_pool(scores[rows], np.argsort(rows)[owner])
    assert permuted.text_retrieval.ranks().tolist() == plain.text_retrieval.ranks()[rows].tolist()
    assert permuted.image_retrieval.ranks().tolist() == plain.image_retrieval.ranks().tolist()


@pytest.mark.parametrize("block_elements", [1, 91, 200, 1000], ids=lambda size: f"blocks of {size}")
@pytest.mark.parametrize("name", ["irregular_captions_ties_30", "all_equal_12x60"])
def test_the_size_of_blocks_changes_nothing(folder: Path, name: str, block_elements: int) -> None:
    case = Case(folder, name)
    whole, parts = rank_pool(case.scores, case.owner), rank_pool(case.scores, case.owner, None, block_elements)
    for ties in TIE_POLICIES:
        assert parts.text_retrieval.ranks(ties).tolist() == whole.text_retrieval.ranks(ties).tolist()
        assert parts.image_retrieval.ranks(ties).tolist() == whole.image_retrieval.ranks(ties).tolist()


def test_a_mapped_matrix_is_ranked_like_one_in_memory(tmp_path: Path) -> None:
    scores, owner = random_case()
    np.save(tmp_path / "scores.npy", scores)
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    assert evaluate_retrieval(mapped, owner) == evaluate_retrieval(scores, owner)


def test_equal_right_captions_are_no_tie() -> None:
    ranks = rank_pool(np.array([[0.9, 0.9, 0.1], [0.2, 0.3, 0.5]]), [0, 0, 1]).text_retrieval
    assert (ranks.tied.tolist(), ranks.ranks("pessimistic").tolist()) == ([0, 0], [0, 0])


def test_scores_are_compared_as_they_are_stored() -> None:
    scores = np.array([[0.50001, 0.50002], [0.1, 0.9]])
    assert rank_pool(scores, [0, 1]).text_retrieval.better.tolist() == [1, 0]
    assert rank_pool(scores.astype(np.float16), [0, 1]).text_retrieval.tied.tolist() == [1, 0]


# --- protocols ---


def test_the_first_captions_of_an_image_are_those_of_lowest_column() -> None:
    owner = [1, 0, 1, 0, 0, 2, 1]
    assert PROTOCOLS["first-caption"].pools(owner, 3)[0].captions.tolist() == [0, 1, 5]
    assert Protocol("two", "", captions_per_image=2).pools(owner, 3)[0].captions.tolist() == [0, 1, 2, 3, 5]
    assert PROTOCOLS["all"].pools(owner, 3)[0].captions.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_captions_outside_the_pool_compete_with_nobody() -> None:
    scores = np.array([[0.3, 0.9, 0.4], [0.1, np.nan, 0.6]])
    found = evaluate_retrieval(scores, [0, 0, 1], PROTOCOLS["first-caption"])
    assert (found.text_retrieval.r1, found.image_retrieval.r1) == (50.0, 100.0)
    assert found.pools == ((2, 2),)


def test_folds_of_a_thousand_need_five_thousand_images() -> None:
    owner = np.repeat(np.arange(5000), 6)
    pools = PROTOCOLS["5-fold-1k"].pools(owner, 5000)
    assert [(pool.images, len(pool.captions)) for pool in pools][1] == (range(1000, 2000), 5000)
    with pytest.raises(DataError, match=r"'5-fold-1k' is defined for 5,000 images .* there are 1,000"):
        PROTOCOLS["5-fold-1k"].pools(np.arange(1000), 1000)


# --- what is refused ---


@pytest.mark.parametrize("block_elements", [1, 1000])
def test_a_score_that_is_no_number_is_refused_with_its_row(block_elements: int) -> None:
    scores, owner = random_case()
    scores[7, 4] = np.nan
    with pytest.raises(DataError, match=r"row 7, column 4 is not a number"):
        rank_pool(scores, owner, None, block_elements)


def test_infinite_scores_have_a_rank() -> None:
    ranks = rank_pool(np.array([[np.inf, -np.inf], [-np.inf, -np.inf]]), [0, 1])
    assert ranks.text_retrieval.ranks("pessimistic").tolist() == [0, 1]


def test_an_image_without_a_caption_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 of 3 images have no caption \(rows 1\)"):
        rank_pool(np.zeros((3, 2)), [0, 2])


def test_a_rank_needs_a_caption() -> None:
    with pytest.raises(DataError, match="0 of 0 images"):
        rank_pool(np.zeros((0, 0)), np.zeros(0, int))


@pytest.mark.parametrize(
    ("owner", "message"),
    [([0, 2], "rows 0 to 2; there are 2"), ([0], "do not fit 1 owners"), ([0.0, 1.0], "whole numbers")],
    ids=["row", "length", "type"],
)
def test_owners_that_do_not_fit_are_a_bug(owner: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_pool(np.zeros((2, 2)), owner)


@pytest.mark.parametrize("ties", TIE_POLICIES)
def test_a_right_candidate_that_was_left_out_ranks_last_under_every_policy(ties: Any) -> None:
    scores = np.full((6, 6), -np.inf, np.float32)
    scores[0, 1] = 1.0  # a wrong caption of image 0; its own was left out
    scores[2, 2] = 0.5
    found = rank_pool(scores, np.arange(6))
    assert found.text_retrieval.ranks(ties).tolist()[:3] == [5, 5, 0]
    assert found.image_retrieval.ranks(ties).tolist()[:3] == [5, 5, 0]
    assert not found.text_retrieval.tied[[0, 1]].any()
