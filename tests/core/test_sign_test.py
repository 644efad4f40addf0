"""The sign test against its definition."""

from __future__ import annotations

from math import comb

import pytest

from vlrun.blocks.sign_test import is_conclusive, wins_needed


def chance_of_at_least(wins: int, comparisons: int) -> float:
    return sum(comb(comparisons, won) for won in range(wins, comparisons + 1)) / 2**comparisons


@pytest.mark.parametrize("comparisons", [7, 8, 9, 10, 20, 63, 64, 65, 200])
def test_it_asks_for_the_fewest_wins_that_chance_rarely_has(comparisons: int) -> None:
    needed = wins_needed(comparisons)
    assert chance_of_at_least(needed, comparisons) <= 0.01 < chance_of_at_least(needed - 1, comparisons)
    assert is_conclusive(comparisons)


@pytest.mark.parametrize(("comparisons", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4)])
def test_too_few_comparisons_are_decided_by_majority(comparisons: int, majority: int) -> None:
    assert chance_of_at_least(comparisons, comparisons) > 0.01
    assert not is_conclusive(comparisons)
    assert wins_needed(comparisons) == majority


def test_more_comparisons_need_a_smaller_share() -> None:
    shares = [wins_needed(comparisons) / comparisons for comparisons in (7, 64, 1000, 5000)]
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < shares[-1] < 0.52
