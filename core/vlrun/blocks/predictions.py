"""What metrics ask of predictions before they score them: one for each example, and no others."""

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
    """Everything that keeps ``predictions`` from being one for each of ``ids``; empty if they are.

    Args:
        unit: what the examples of the split are, in the plural.
        optional: ids that may go without a prediction.
    """
    predicted, known = Counter(prediction.id for prediction in predictions), Counter(ids)
    missing = (name for name in known if name not in predicted and name not in optional)
    findings = {
        "have no prediction": missing,
        "were predicted but are not there": (name for name in predicted if name not in known),
        "were predicted more than once": (name for name, count in predicted.items() if count > 1),
        "are ids of several examples": (name for name, count in known.items() if count > 1),
    }
    return [line for what, found in findings.items() for line in listed(found, what, split=split, unit=unit)]


def listed(ids: Iterable[str], what: str, *, split: str, unit: str = "examples") -> list[str]:
    """One line on the examples that ``what`` is true of, with the first few of them; none if there are none."""
    found = list(ids)
    if not found:
        return []
    return [f"split '{split}': {len(found):,} {unit} {what}: {', '.join(first_few(found, _SHOWN_IDS))}"]
