"""When so many of n comparisons went right that chance is no explanation."""

from __future__ import annotations

ONE_IN = 100
"""A head that knows nothing may pass once in so many samples: the level of the test is 1 %."""


def wins_needed(comparisons: int) -> int:
    """How many of ``comparisons`` must be won to be better than chance.

    One-sided sign test: the fewest k for which P(at least k heads of n fair tosses) <= 1 %; 42 of 64, for instance. Not
    even n heads of n < 7 tosses are that rare. There the answer is a plain majority, which chance reaches about every
    second time: so few comparisons may stop a head that is the wrong way round, but they prove nothing of a good one.
    """
    needed, right_tail, outcomes = comparisons + 1, 0, 1  # outcomes: C(n, needed - 1), of 2**n in all
    while (right_tail + outcomes) * ONE_IN <= 1 << comparisons:
        needed -= 1
        right_tail += outcomes
        outcomes = outcomes * needed // (comparisons - needed + 1)
    return needed if is_conclusive(comparisons) else comparisons // 2 + 1


def is_conclusive(comparisons: int) -> bool:
    """Whether winning all comparisons would be rarer than 1 % by chance."""
    return 1 << comparisons >= ONE_IN
