"""Standard errors: how far a score may be from that of other examples of the same kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlrun.seeds import derive_seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SAMPLES = 400  # of a bootstrap; its error is then itself known to within 4 %


@dataclass(frozen=True, eq=False)
class Units:
    """What a score is the mean of: a paired comparison of two models draws these anew.

    Attributes:
        values: (n,) one for each unit, in the order of the data, in the unit of the score.
        sizes: (n,) how many items each value is the sum over; None: each is one.
    """

    values: NDArray[np.float64]
    sizes: NDArray[np.float64] | None = None


def error_of_mean(
    values: Sequence[float] | NDArray[Any], sizes: Sequence[float] | NDArray[Any] | None = None
) -> float | None:
    """The standard error of a mean over independent units: the sample's standard deviation, divided by sqrt(n).

    With ``sizes`` it is the error of ``sum(values) / sum(sizes)``, a mean over items that come in groups and are alike
    within a group, such as the masked words of a sentence: exact to first order, however large the groups.

    Args:
        values: (n,) one for each unit; with ``sizes`` the sum over the items of each group.
        sizes: (n,) number of items in each group; None: one each.

    Returns:
        None where fewer than two units say nothing about how they vary.
    """
    import numpy as np

    sums = np.asarray(values, np.float64)
    counts = np.ones_like(sums) if sizes is None else np.asarray(sizes, np.float64)
    units, total = len(sums), counts.sum()
    if units < 2 or not total:
        return None
    residuals = sums - counts * (sums.sum() / total)
    return math.sqrt(units / (units - 1) * math.fsum(residuals**2)) / float(total)


def error_by_resampling(units: int, score_of: Callable[[NDArray[np.int64]], float], *address: str) -> float | None:
    """The standard error of any score by bootstrap: how it varies when the units are drawn anew from themselves.

    The draws derive from ``address`` alone, so the error is the same in every run and for any number of processes.

    Args:
        units: how many independent units there are, such as images.
        score_of: (rows of units, (units,) with repetitions) -> the score of these.
        address: what the score is of, such as its split and its name.

    Returns:
        None where there are fewer than two units.
    """
    import numpy as np

    if units < 2:
        return None
    rng = np.random.Generator(np.random.Philox(derive_seed("bootstrap", *address)))
    return float(np.std([score_of(rng.integers(units, size=units)) for _ in range(_SAMPLES)], ddof=1))
