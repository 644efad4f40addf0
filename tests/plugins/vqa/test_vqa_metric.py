"""VQA accuracy: the numbers of the official evaluator in both versions, and the protocol beside each."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError, Prediction, Score
from vlrun.blocks.answers import AnswerVocabulary
from vlrun.testing import check_metric
from vlrun_vqa.accuracy import ground_truth
from vlrun_vqa.config import VqaAccuracyConfig
from vlrun_vqa.dataset import VqaAnswers
from vlrun_vqa.metric import VqaAccuracy

EVALUATORS = {"current": "official_current", "pre-2021": "official_pre_2021"}
TEN = [str(number) for number in range(10)]


def metric(vocabulary: list[str] | None = None, **options: Any) -> VqaAccuracy:
    config = VqaAccuracyConfig(name="vqa-accuracy", **options)
    return VqaAccuracy(config, AnswerVocabulary(tuple(vocabulary)) if vocabulary is not None else None)


def by_name(scores: list[Score]) -> dict[str, Score]:
    return {score.name: score for score in scores}


def official_results(path: Path) -> list[Prediction]:
    return [Prediction(str(row["question_id"]), {"answer": row["answer"]}) for row in json.loads(path.read_text())]


def accuracies(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Our scores in the layout of the official evaluator; the spaces of question types are dashes."""
    question, answer = "accuracy-question-", "accuracy-"
    names = [name for name in scores if name.startswith(answer)]
    return {
        "overall": scores["accuracy"].value,
        "perQuestionType": {
            name.removeprefix(question): scores[name].value for name in names if name.startswith(question)
        },
        "perAnswerType": {
            name.removeprefix(answer): scores[name].value for name in names if not name.startswith(question)
        },
    }


def with_dashes(expected: Mapping[str, Any]) -> dict[str, Any]:
    types = {name.replace(" ", "-"): value for name, value in expected["perQuestionType"].items()}
    return {**expected, "perQuestionType": types}


def assert_close(found: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> None:
    assert found["overall"] == pytest.approx(expected["overall"], abs=tolerance)
    for key in ("perQuestionType", "perAnswerType"):
        assert found[key] == pytest.approx(expected[key], abs=tolerance)


# --- the official evaluator ---


@pytest.mark.golden
@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("name", ["synthetic", "real"])
def test_accuracies_are_the_official_ones(name: str, evaluator: str, golden: Path, golden_split: Any) -> None:
    dataset, expected = golden_split(name)
    predictions = official_results(golden / f"metrics/vqa/{name}/results.json")
    judge = metric(evaluator=evaluator)
    found = accuracies(by_name(judge(predictions, dataset)))
    assert_close(found, with_dashes(expected[EVALUATORS[evaluator]]["accuracy_10_decimals"]), 1e-9)
    assert_close(found, with_dashes(expected[EVALUATORS[evaluator]]["accuracy"]), 0.011)
    # the official code changes its annotations, and a second evaluation gives another number
    assert judge(predictions, dataset) == judge(predictions, dataset)


@pytest.mark.golden
@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("name", ["synthetic", "real"])
def test_every_question_scores_as_officially(name: str, evaluator: Any, golden: Path, golden_split: Any) -> None:
    dataset, expected = golden_split(name)
    answers = {p.id: p.fields["answer"] for p in official_results(golden / f"metrics/vqa/{name}/results.json")}
    found = {}
    for example in dataset:
        truth = ground_truth(example.target.answers, example.target.annotators, evaluator)
        found[example.id] = 100 * truth.score(truth.spelled(answers[example.id]))
    assert found == pytest.approx(expected[EVALUATORS[evaluator]]["per_question"], abs=0.011)


@pytest.mark.golden
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_subset_is_scored_by_itself(evaluator: str, golden: Path, golden_split: Any, make_dataset: Any) -> None:
    dataset, expected = golden_split("real")
    chosen = {str(name) for name in expected["subset_question_ids"]}
    subset = make_dataset()
    subset.examples = [example for example in dataset if example.id in chosen]
    predictions = [p for p in official_results(golden / "metrics/vqa/real/results.json") if p.id in chosen]
    found = accuracies(by_name(metric(evaluator=evaluator)(predictions, subset)))
    assert_close(found, with_dashes(expected[EVALUATORS[evaluator]]["accuracy_on_subset"]), 0.011)


@pytest.mark.golden
def test_rositas_offline_accuracy_is_that_of_the_earlier_version(golden: Path, make_dataset: Any) -> None:
    data = json.loads((golden / "rosita/vqa_eval.json").read_text())
    dataset = make_dataset(
        *(
            VqaAnswers(tuple(a["answer"] for a in row["answers"]), None, row["answer_type"], row["question_type"])
            for row in data["annotations"]["annotations"]
        )
    )
    order = {str(row["question_id"]): str(place) for place, row in enumerate(data["annotations"]["annotations"])}
    predictions = [Prediction(order[str(row["question_id"])], {"answer": row["answer"]}) for row in data["results"]]
    found = accuracies(by_name(metric(evaluator="pre-2021")(predictions, dataset)))
    assert_close(found, with_dashes(data["expected"]), 0.011)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing_one", "'train': 1 questions have no prediction: "),
        ("unknown_id", "1 questions were predicted but are not there: "),
        ("duplicate_id", "1 questions were predicted more than once: "),
    ],
)
def test_results_that_do_not_fit_are_refused(name: str, message: str, golden: Path, golden_split: Any) -> None:
    dataset, _ = golden_split("synthetic")
    with pytest.raises(DataError, match=message):
        metric()(official_results(golden / f"metrics/vqa/synthetic/results_{name}.json"), dataset)


@pytest.mark.golden
def test_the_official_loader_would_let_the_last_of_two_answers_win(golden: Path, golden_split: Any) -> None:
    dataset, _ = golden_split("synthetic")
    expected = json.loads((golden / "metrics/vqa/synthetic/expected_bad_results.json").read_text())
    given = official_results(golden / "metrics/vqa/synthetic/results_duplicate_id.json")
    last = {prediction.id: prediction for prediction in given}
    accuracy = metric()(list(last.values()), dataset)[0]
    assert accuracy.value == pytest.approx(expected["results_duplicate_id"]["overall"], abs=0.011)


# --- the formula, by hand ---


@pytest.mark.parametrize(("votes", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_each_annotator_is_left_out_once(votes: int, expected: float) -> None:
    answers = ["red"] * votes + TEN[votes:]
    assert ground_truth(answers, (), "current").score("red") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [(["red"], 0), (["red"] * 2, 1 / 3), (["red"] * 2 + ["x"], 4 / 9), (["red"] * 3 + ["x", "y"], 0.8)],
)
def test_other_numbers_of_annotators(answers: list[str], expected: float) -> None:
    assert ground_truth(answers, (), "current").score("red") == pytest.approx(expected)


def test_equal_answers_of_one_annotator_are_left_out_together() -> None:
    answers = ["red"] * 6 + ["blue"] * 4
    assert ground_truth(answers, (0,) * 10, "current").score("red") == pytest.approx(0.4)
    assert ground_truth(answers, (0,) * 3 + (1,) * 7, "current").score("red") == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("answers", "prediction", "current", "earlier"),
    [
        (["Yes"] * 10, "yes", 0, 0),
        (["Yes"] * 9 + ["no"], "yes", 1, 0),
        (["two"] * 10, "two", 1, 0),
        (["two"] * 10, "2", 0, 0),
        (["t-shirt"] * 10, "t-shirt", 1, 0),
        (["yes "] * 10, " yes", 1, 0),
        (["a dog"] * 9 + ["cat"], "dog", 1, 0),
        (["?"] * 9 + ["cat"], "", 1, 0),  # earlier: "?" becomes a space
    ],
)
def test_the_versions_normalise_differently(
    answers: list[str], prediction: str, current: float, earlier: float
) -> None:
    for evaluator, expected in (("current", current), ("pre-2021", earlier)):
        truth = ground_truth(answers, (), evaluator)  # type: ignore[arg-type]
        assert truth.score(truth.spelled(prediction)) == expected, evaluator


# --- soft scores, hidden answers ---


def test_where_only_scores_are_known_the_prediction_is_looked_up(make_dataset: Any, predict: Any) -> None:
    dataset = make_dataset({"yes": 1.0, "no": 0.3}, {"2": 0.6}, {}, {"Two": 0.9})
    (accuracy,) = metric()(predict("no", "3", "cat", "two"), dataset)
    assert accuracy.value == pytest.approx(100 * 0.3 / 4)
    assert accuracy.protocol["evaluator"] == "soft-score lookup, as LXMERT reports"


def test_answers_and_scores_may_be_mixed(make_dataset: Any, predict: Any) -> None:
    dataset = make_dataset(["red"] * 10, {"yes": 0.6}, ["red", *["blue"] * 9])
    (accuracy,) = metric()(predict("red", "yes", "red"), dataset)
    assert accuracy.value == pytest.approx(100 * (1 + 0.6 + 0.3) / 3)
    evaluator = accuracy.protocol["evaluator"]
    assert evaluator == "official, from 2021-03 on; soft-score lookup, as LXMERT reports, for 1 of 3 questions"


def test_hidden_questions_are_left_out_and_counted(make_dataset: Any, predict: Any) -> None:
    (accuracy,) = metric()(predict("red", "red", "red"), make_dataset(["red"] * 10, None, ["blue"] * 10))
    assert (accuracy.value, accuracy.count) == (50, 2)
    assert accuracy.protocol["hidden"] == "1 questions are not scored"


def test_a_split_without_answers_cannot_be_scored(make_dataset: Any, predict: Any) -> None:
    with pytest.raises(DataError, match="split 'minival': the answers to all questions are hidden"):
        metric()(predict("red"), make_dataset(None))


# --- the bound of the vocabulary ---


def test_the_upper_bound_is_what_the_vocabulary_can_say(make_dataset: Any, predict: Any) -> None:
    dataset = make_dataset(
        ["red"] * 8 + ["dark red"] * 2,
        ["maroon"] * 9 + ["a dog"],  # only the rare answer can be said
        ["maroon"] * 10,
        {"yes": 0.6, "maroon": 1.0},
        {},
    )
    scores = by_name(metric(["red", "dog", "yes"])(predict("red", "x", "x", "yes", "x"), dataset))
    assert scores["upper-bound"].value == pytest.approx(100 * (1 + 0.3 + 0 + 0.6 + 0) / 5)
    assert (scores["unanswerable"].value, scores["unanswerable"].unit, scores["unanswerable"].count) == (2, "", 5)
    assert not scores["unanswerable"].higher_is_better
    assert scores["upper-bound"].protocol["vocabulary"].startswith("3 answers, ")
    assert "vocabulary" not in scores["accuracy"].protocol


@pytest.mark.parametrize(("evaluator", "bound"), [("current", 100), ("pre-2021", 0)])
def test_the_bound_spells_as_the_evaluator_does(evaluator: str, bound: float, make_dataset: Any, predict: Any) -> None:
    scores = by_name(metric(["two"], evaluator=evaluator)(predict("two"), make_dataset(["two"] * 10)))
    assert scores["upper-bound"].value == scores["accuracy"].value == bound


@pytest.mark.golden
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_no_answer_of_the_vocabulary_beats_the_bound(evaluator: Any, golden_split: Any, make_dataset: Any) -> None:
    dataset, _ = golden_split("synthetic")
    said = sorted({answer for example in dataset for answer in example.target.answers})[::7]
    best = []
    for example in dataset:
        truth = ground_truth(example.target.answers, example.target.annotators, evaluator)
        best.append(max(truth.score(truth.spelled(answer)) for answer in said))
    predictions = [Prediction(example.id, {"answer": "x"}) for example in dataset]
    scores = by_name(metric(said, evaluator=evaluator)(predictions, dataset))
    assert scores["upper-bound"].value == pytest.approx(100 * sum(best) / len(best))


def test_without_a_vocabulary_there_is_no_bound(make_dataset: Any, predict: Any) -> None:
    assert list(by_name(metric()(predict("x"), make_dataset(TEN)))) == ["accuracy"]


# --- what a score says ---


def test_the_protocol_names_the_evaluator(make_dataset: Any, predict: Any) -> None:
    (accuracy,) = metric(evaluator="pre-2021")(predict("x"), make_dataset(TEN))
    assert accuracy.protocol == {"evaluator": "official, before 2021-03"}


def test_one_score_is_primary_and_question_types_are_details(make_dataset: Any, predict: Any) -> None:
    answers = ("red",) * 10
    dataset = make_dataset(
        VqaAnswers(answers, None, "other", "what color is the"),
        VqaAnswers(answers, None, "yes/no", "is the"),
        VqaAnswers(answers, None, "rare type", None),
        VqaAnswers(answers),
    )
    scores = by_name(metric(["red"])(predict("red", "blue", "red", "red"), dataset))
    assert [score.name for score in scores.values() if score.primary] == ["accuracy"]
    assert [name for name, score in scores.items() if not score.detail] == [
        "accuracy",
        "accuracy-yes/no",
        "accuracy-other",
        "accuracy-rare type",
        "upper-bound",
        "unanswerable",
    ]
    details = {name: (score.value, score.count) for name, score in scores.items() if score.detail}
    assert details == {"accuracy-question-is-the": (0, 1), "accuracy-question-what-color-is-the": (100, 1)}


def test_scoring_changes_nothing(make_dataset: Any, predict: Any) -> None:
    dataset, predictions = make_dataset(["Yes", *["no"] * 9], {"a": 1.0}), predict("Yes", "a")
    before = copy.deepcopy((dataset.examples, predictions))
    metric(["yes"])(predictions, dataset)
    assert (dataset.examples, predictions) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made[:1], r"6 questions have no prediction: 1, 2, 3, 4, 5, \.\.\."),
        (lambda made: [*made[:-1], Prediction("6", {"answer": 3})], r"answer is no text: 6 \(3\)"),
        (lambda made: [*made[:-1], Prediction("6", {})], r"answer is no text: 6 \(None\)"),
    ],
    ids=["many missing", "a number", "no answer"],
)
def test_predictions_that_do_not_fit_the_split_are_refused(
    change: Callable[[list[Prediction]], list[Prediction]], message: str, make_dataset: Any, predict: Any
) -> None:
    with pytest.raises(DataError, match=message):
        metric()(change(predict(*"abcdefg")), make_dataset(*[TEN] * 7))


def test_all_that_does_not_fit_is_said_at_once(make_dataset: Any, predict: Any) -> None:
    made = [*predict("a", "b"), Prediction("9", {"answer": "c"}), Prediction("1", {"answer": "d"})]
    with pytest.raises(DataError) as caught:
        metric()(made, make_dataset(TEN, TEN, TEN))
    assert len(caught.value.problems) == 3


def test_the_metric_keeps_its_promises(make_dataset: Any, predict: Any) -> None:
    check_metric(metric(), make_dataset(TEN, ["yes"] * 10, ["no"] * 10), predict("1", "yes", "yes"))
