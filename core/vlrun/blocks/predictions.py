"""The check of predictions before metrics score them: one for each example, and no others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from vlrun.errors import first_few
from vlrun.interfaces.examples import Prediction

_SHOWN_IDS = 5


def mismatches(
    predictions: Sequence[Prediction],
    ids: Sequence[str],
    *,
    split: str,
    unit: str = "examples",
    optional: Collection[str] = (),
) -> list[str]:
    """Every way in which ``predictions`` fail to be one for each of ``ids``; empty if they do not fail.

    Args:
        unit: what the message calls examples, in the plural.
        optional: ids that may go without a prediction.
    """
    predicted, expected = Counter(prediction.id for prediction in predictions), Counter(ids)
    missing = (name for name in expected if name not in predicted and name not in optional)
    findings = {
        "have no prediction": missing,
        "were predicted but are not there": (name for name in predicted if name not in expected),
        "were predicted more than once": (name for name, count in predicted.items() if count > 1),
        "are ids of several examples": (name for name, count in expected.items() if count > 1),
    }
    return [line for what, names in findings.items() for line in listed(names, what, split=split, unit=unit)]


def listed(ids: Iterable[str], what: str, *, split: str, unit: str = "examples") -> list[str]:
    """One line that says ``what`` about the examples ``ids``, with their number and the first few; none without ids."""
    names = list(ids)
    if not names:
        return []
    return [f"split '{split}': {len(names):,} {unit} {what}: {', '.join(first_few(names, _SHOWN_IDS))}"]
