"""The check of metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vlrun.errors import DataError
from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.examples import Prediction, Score
from vlrun.interfaces.metric import Metric
from vlrun.testing.values import check_protocol, is_same

_UNKNOWN = "an id that no example has"


def check_metric(metric: Metric, dataset: Dataset[Any], predictions: Sequence[Prediction]) -> list[Score]:
    """Asserts what the core relies on in a metric, and returns the scores; ``predictions`` must fit ``dataset``.

    Each score has a name of its own, a unit, a count and a protocol that includes the dataset's and can be written to
    JSON; exactly one is primary; values are finite, standard errors unknown or not negative. Predictions are left as
    they are, and in another order they give the same scores. A DataError refuses a missing, a repeated and an unknown
    prediction, naming it, and one whose fields are missing or of another kind; where a single field is, it is refused
    or not read.
    """
    assert predictions, "there are no predictions, so there is nothing to check"
    given = list(predictions)
    before = copy.deepcopy(given)
    scores = metric(given, dataset)
    assert is_same(given, before), "the metric changes the predictions, which others read after it"
    _check_scores(scores, dataset)
    _check_order(scores, metric(given[::-1], dataset))

    first = given[0]
    _check_refused(metric, dataset, given[1:], "a missing prediction", first.id)
    _check_refused(metric, dataset, [*given, copy.deepcopy(first)], "a repeated prediction", first.id)
    _check_refused(metric, dataset, [*given, replace(first, id=_UNKNOWN)], "the prediction of an unknown id", _UNKNOWN)
    for what, fields in (
        ("a prediction without fields", {}),
        ("fields that are null", dict.fromkeys(first.fields)),
        ("fields of another kind", {name: _of_another_kind(value) for name, value in first.fields.items()}),
    ):
        _check_refused(metric, dataset, [replace(first, fields=fields), *given[1:]], what)
    for name, value in first.fields.items():
        for other in (None, _of_another_kind(value)):
            changed = replace(first, fields={**first.fields, name: other})
            _check_refused(metric, dataset, [changed, *given[1:]], f"field '{name}' as {other!r}", may_score=True)
    return scores


def _of_another_kind(value: Any) -> Any:
    return ["of", "another", "kind"] if isinstance(value, dict) else {"of another": "kind"}


def _check_scores(scores: Any, dataset: Dataset[Any]) -> None:
    assert scores and isinstance(scores, list), f"a metric returns a list of scores, not {scores!r}"
    for score in scores:
        assert isinstance(score, Score), f"a metric returns a list of scores, and in it is {score!r}"
        assert score.name and isinstance(score.name, str), f"a score must have a name, not {score.name!r}"
        whose = f"score '{score.name}'"
        assert isinstance(score.unit, str), f"the unit of {whose} must be '%' or empty, and is {score.unit!r}"
        assert _is_number(score.value), f"the value of {whose} must be a finite number, and is {score.value!r}"
        assert isinstance(score.count, int) and score.count > 0, (
            f"the count of {whose} must be the number of examples behind it, and is {score.count!r}"
        )
        error = score.standard_error
        assert error is None or (_is_number(error) and error >= 0), (
            f"the standard error of {whose} must be None or at least 0, and is {error!r}"
        )
        check_protocol(score.protocol, whose)
        changed = [name for name, value in dataset.protocol.items() if score.protocol.get(name, value) != value]
        assert not changed, f"the protocol of {whose} says something else than dataset.protocol: {', '.join(changed)}"
    names = [score.name for score in scores]
    assert len(set(names)) == len(names), f"each score needs a name of its own: {', '.join(names)}"
    primary = [score.name for score in scores if score.primary]
    assert len(primary) == 1, f"exactly one score must be primary, and these are: {', '.join(primary) or 'none'}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _check_order(scores: Sequence[Score], reversed_scores: Sequence[Score]) -> None:
    rule = "scores must not depend on the order of the predictions"
    names = [[score.name for score in some] for some in (scores, reversed_scores)]
    assert names[0] == names[1], f"{rule}: {', '.join(names[0])} become {', '.join(names[1])}"
    for score, other in zip(scores, reversed_scores, strict=True):
        for field in ("value", "standard_error"):  # sums in another order differ a little
            one, two = getattr(score, field), getattr(other, field)
            is_close = one is two or (None not in (one, two) and math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-9))
            assert is_close, f"{rule}: {field} of '{score.name}' is {one}, and in reversed order {two}"
        same = replace(other, value=score.value, standard_error=score.standard_error)
        assert is_same(same, score), f"{rule}: '{score.name}' is {score}, and in reversed order {other}"


def _check_refused(
    metric: Metric,
    dataset: Dataset[Any],
    predictions: Sequence[Prediction],
    what: str,
    named: str = "",
    may_score: bool = False,
) -> None:
    try:
        scores = metric(predictions, dataset)
    except DataError as error:
        assert named in str(error), f"the DataError about {what} must name '{named}'; it says: {error}"
    except Exception as error:
        raise AssertionError(
            f"{what} must be refused with a DataError, and raises {type(error).__name__}: {error}"
        ) from error
    else:
        assert may_score, f"{what} must be refused with a DataError, and is scored: {scores}"
