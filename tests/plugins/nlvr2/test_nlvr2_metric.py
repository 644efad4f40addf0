"""Accuracy and consistency: the numbers of the authors' scripts, and the protocol beside each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError, Prediction, Score
from vlrun.testing import check_metric
from vlrun_nlvr2.config import Nlvr2AccuracyConfig
from vlrun_nlvr2.metric import Nlvr2Accuracy
from vlrun_nlvr2.submission import read_csv

METRIC = Nlvr2Accuracy(Nlvr2AccuracyConfig(name="nlvr2-accuracy"))


def predictions(labels: Sequence[Any]) -> list[Prediction]:
    return [Prediction(str(index), {"label": label}) for index, label in enumerate(labels)]


def by_name(scores: Sequence[Score]) -> dict[str, Score]:
    return {score.name: score for score in scores}


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((golden / "metrics/nlvr2/expected.json").read_text())
    return values


# --- the authors' numbers; theirs are fractions where they come from the main script, ours are percentages ---


@pytest.mark.golden
def test_scores_are_those_of_the_official_scripts(
    expected: dict[str, Any], real_dev: Any, official_csv: Callable[[str], Path]
) -> None:
    files = [name for name in expected if name.endswith(".csv")]
    assert any("category_accuracy_percent" in expected[name] for name in files)
    for name in files:
        scores, official = by_name(METRIC(read_csv(official_csv(name)), real_dev)), expected[name]
        theirs = {kind: 100 * official[kind] for kind in ("accuracy", "consistency")}
        for subset in ("balanced", "unbalanced"):
            on_subset = official[f"{subset}_metrics_py"]
            theirs.update({f"{subset}-{kind}": 100 * on_subset[kind] for kind in ("accuracy", "consistency")})
            assert scores[f"{subset}-accuracy"].value == pytest.approx(official[f"{subset}_accuracy_percent"], abs=1e-9)
        ours = {score: scores[score].value for score in theirs}
        assert ours == {score: pytest.approx(value, abs=1e-9) for score, value in theirs.items()}, name
        for phenomenon, values in official.get("category_accuracy_percent", {}).items():
            score = scores[f"accuracy-{phenomenon.replace(' ', '-')}"]
            assert (round(score.value, 2), score.count) == (values["accuracy"], values["n"])
            assert score.detail


def test_every_score_says_over_how_many_statements_or_groups_it_is(real_dev: Any) -> None:
    scores = by_name(METRIC([Prediction(example.id, {"label": True}) for example in real_dev], real_dev))
    statements = [example.target for example in real_dev]
    counts = {"accuracy": len(statements), "consistency": len({each.group for each in statements})}
    for subset in ("balanced", "unbalanced"):
        inside = [each for each in statements if subset in each.subsets]
        counts[f"{subset}-accuracy"] = len(inside)
        counts[f"{subset}-consistency"] = len({each.group for each in inside})
    assert min(counts.values()) > 0
    assert {name: score.count for name, score in scores.items() if not score.detail} == counts


@pytest.mark.golden
def test_files_that_the_official_script_scores_wrongly_or_not_at_all_are_refused(
    expected: dict[str, Any], real_dev: Any, official_csv: Callable[[str], Path], tmp_path: Path
) -> None:
    lines = official_csv("dev.independent_70.csv").read_text().splitlines()
    first, _, label = lines[0].partition(",")
    flipped = {"true": "False", "false": "True"}[label.lower()]
    missing = f"split 'dev': 1 statements have no prediction: {first}"
    unknown = "split 'dev': 1 statements were predicted but are not there: nope-1-0-0"
    twice = f"split 'dev': 1 statements were predicted more than once: {first}"
    path = tmp_path / "dev.csv"
    variants = {
        "dev.missing_one": (lines[1:], [missing]),
        "dev.unknown_extra": ([*lines, "nope-1-0-0,True"], [unknown]),
        "dev.missing_one_plus_unknown": ([*lines[1:], "nope-1-0-0,True"], [missing, unknown]),
        "dev.duplicate_last_wins": ([*lines, f"{first},{flipped}"], [twice]),
        "dev.non_boolean": ([f"{first},maybe", *lines[1:]], [f"{path}:1: 'maybe' is neither True nor False"]),
    }
    assert variants.keys() == expected["malformed_variants_of_independent_70"].keys()
    for changed, messages in variants.values():
        path.write_text("".join(f"{line}\n" for line in changed))
        with pytest.raises(DataError) as caught:
            METRIC(read_csv(path), real_dev)
        assert caught.value.problems == messages


# --- by hand ---


def test_a_group_is_consistent_if_all_of_it_is_right(make_dataset: Any) -> None:
    dataset = make_dataset([True, False, True, True], ["a", "a", "b", "c"])
    scores = by_name(METRIC(predictions([True, False, False, True]), dataset))
    assert scores["accuracy"].value == 75
    assert scores["consistency"].value == pytest.approx(200 / 3)
    assert (scores["accuracy"].count, scores["consistency"].count) == (4, 3)
    of_statements, of_groups = 100 * math.sqrt(3 / 4 * 1 / 4 / 3), 100 * math.sqrt(2 / 3 * 1 / 3 / 2)
    assert scores["accuracy"].standard_error == pytest.approx(of_statements)
    assert scores["consistency"].standard_error == pytest.approx(of_groups)


def test_consistency_on_a_subset_ignores_the_rest_of_a_group(make_dataset: Any) -> None:
    dataset = make_dataset([True, True], ["a", "a"], subsets=[("balanced",), ()])
    scores = by_name(METRIC(predictions([True, False]), dataset))
    assert scores["consistency"].value == 0
    assert scores["balanced-consistency"].value == 100
    assert "unbalanced-accuracy" not in scores


def test_what_is_not_known_is_left_out(make_dataset: Any) -> None:
    assert list(by_name(METRIC(predictions([True]), make_dataset([True])))) == ["accuracy", "consistency"]


def test_a_phenomenon_is_scored_over_its_statements(make_dataset: Any) -> None:
    categories = [("negation", "pp ambiguity"), ("negation",), (), None]
    scores = by_name(METRIC(predictions([True, False, False, False]), make_dataset([True] * 4, categories=categories)))
    negation, ambiguity = scores["accuracy-negation"], scores["accuracy-pp-ambiguity"]
    assert (negation.value, negation.count, negation.detail) == (50, 2, True)
    assert (ambiguity.value, ambiguity.count) == (100, 1)
    assert negation.protocol["phenomenon"] == "negation"


def test_every_score_names_what_makes_it_comparable(make_dataset: Any) -> None:
    scores = METRIC(predictions([True]), make_dataset([True], subsets=[("balanced",)]))
    assert [(score.name, score.unit, score.primary, score.detail) for score in scores] == [
        ("accuracy", "%", True, False),
        ("consistency", "%", False, False),
        ("balanced-accuracy", "%", False, False),
        ("balanced-consistency", "%", False, False),
    ]
    assert scores[0].protocol == {"unit": "statements"}
    assert scores[1].protocol == {"unit": "groups of one sentence and image set"}
    assert scores[2].protocol == {"subset": "balanced", "unit": "statements"}


def test_the_order_of_predictions_does_not_matter(make_dataset: Any) -> None:
    dataset = make_dataset([True, False, True], ["a", "a", "b"])
    made = predictions([True, True, False])
    assert METRIC(made[::-1], dataset) == METRIC(made, dataset)


@pytest.mark.parametrize("label", ["True", 1, None, 0.7])
def test_a_label_is_true_or_false_and_nothing_like_it(label: Any, make_dataset: Any) -> None:
    with pytest.raises(DataError, match="1 statements have a prediction whose label is neither true nor false: 1"):
        METRIC(predictions([True, label]), make_dataset([True, True]))


def test_all_that_does_not_fit_is_one_error(make_dataset: Any) -> None:
    made = [*predictions([True] * 8)[2:], Prediction("9", {"label": True}), Prediction("7", {}), Prediction("9", {})]
    with pytest.raises(DataError) as caught:
        METRIC(made, make_dataset([True] * 7 + [None]))
    assert caught.value.problems == [
        "split 'dev': 2 statements have no prediction: 0, 1",
        "split 'dev': 1 statements were predicted but are not there: 9",
        "split 'dev': 2 statements were predicted more than once: 7, 9",
        "split 'dev': 2 statements have a prediction whose label is neither true nor false: 7 (None), 9 (None)",
        "split 'dev': 1 statements have no known label, so they cannot be scored: 7",
    ]


def test_many_missing_predictions_fill_no_screen(make_dataset: Any) -> None:
    with pytest.raises(DataError, match=r"7 statements have no prediction: 1, 2, 3, 4, 5, \.\.\. and 2 more$"):
        METRIC(predictions([True]), make_dataset([True] * 8))


def test_a_dataset_with_an_id_twice_is_refused(make_dataset: Any) -> None:
    dataset = make_dataset([True, True])
    dataset.examples[1] = dataset.examples[0]
    with pytest.raises(DataError, match="1 statements are ids of several examples"):
        METRIC(predictions([True]), dataset)


def test_predictions_survive_a_file(make_dataset: Any) -> None:
    dataset = make_dataset([True, False])
    made = predictions([True, True])
    read = [json.loads(json.dumps(prediction.as_json())) for prediction in made]
    again = [Prediction(row.pop("id"), row) for row in read]
    assert METRIC(again, dataset) == METRIC(made, dataset)


def test_the_metric_keeps_its_promises(make_dataset: Any) -> None:
    check_metric(METRIC, make_dataset([True, False, True]), predictions([True, True, True]))
