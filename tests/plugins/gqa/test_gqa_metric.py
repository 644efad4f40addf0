"""GQA's scores: the numbers of the official evaluator, and which are left out where data do not allow them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlrun import DataError, Prediction, Score, error_by_resampling
from vlrun.blocks.answers import AnswerVocabulary
from vlrun.testing import check_metric
from vlrun_gqa.build import build_lxmert, build_official
from vlrun_gqa.config import GqaDatasetConfig
from vlrun_gqa.dataset import GqaQuestions
from vlrun_gqa.metric import GqaAccuracy

GROUPS = {
    "structural": "accuracyPerStructuralType",
    "semantic": "accuracyPerSemanticType",
    "steps": "accuracyPerSteps",
    "words": "accuracyPerLength",
}
SINGLE = ("accuracy", "binary", "open", "consistency", "validity", "plausibility", "distribution")


def answered(*answers: str) -> list[Prediction]:
    return [Prediction(str(number), {"answer": answer}) for number, answer in enumerate(answers)]


def by_name(scores: Sequence[Score]) -> dict[str, Score]:
    return {score.name: score for score in scores}


def opened(folder: Path, split: str) -> GqaQuestions:
    config = GqaDatasetConfig(name="gqa", annotations=folder, features=folder, evaluate=[split])
    return GqaQuestions(config, split)


def official_predictions(path: Path) -> list[Prediction]:
    return [Prediction(row["questionId"], {"answer": row["prediction"]}) for row in json.loads(path.read_text())]


def assert_as_expected(scores: Sequence[Score], expected: Mapping[str, Any]) -> None:
    found = by_name(scores)
    for name in SINGLE:
        if expected[name] is None:
            assert name not in found
        else:
            assert found[name].value == pytest.approx(expected[name], abs=1e-9)
    groups = {
        f"accuracy-{kind}-{key}": value for kind, theirs in GROUPS.items() for key, value in expected[theirs].items()
    }
    details = {name: (score.value, score.count) for name, score in found.items() if score.detail}
    assert set(details) == set(groups)
    for name, (percent, count) in groups.items():
        assert details[name] == (pytest.approx(percent, abs=1e-9), count)
    counts = expected["counts"]
    assert (found["accuracy"].count, found["binary"].count, found["open"].count) == (
        counts["balanced"],
        counts["binary"],
        counts["open"],
    )


@pytest.mark.golden
@pytest.mark.parametrize(
    ("predictions", "with_choices", "setting"),
    [
        ("predictions", True, "with_choices_and_consistency"),
        ("predictions_balanced_only", False, "without_choices_no_consistency"),
        ("predictions_balanced_only", True, "balanced_predictions_only"),
    ],
)
def test_all_scores_are_those_of_the_official_evaluator(
    predictions: str, with_choices: bool, setting: str, golden: Path, tmp_path: Path
) -> None:
    data = golden / "metrics/gqa/synthetic"
    expected = json.loads((data / "expected.json").read_text())[setting]
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(data / "questions.json", source / "val_all_questions.json")
    if with_choices:
        shutil.copy(data / "choices.json", source / "val_choices.json")
    build_official(source, tmp_path / "out")
    scores = GqaAccuracy()(official_predictions(data / f"{predictions}.json"), opened(tmp_path / "out", "valid_all"))
    assert_as_expected(scores, expected.get("without_consistency", expected))
    if terms := expected.get("counts", {}).get("consistency_terms"):
        assert by_name(scores)["consistency"].count == terms


@pytest.mark.golden
@pytest.mark.samples
def test_real_questions_score_as_with_the_official_evaluator(golden: Path, samples: Path, tmp_path: Path) -> None:
    data = golden / "metrics/gqa/real_testdev"
    build_official(samples / "gqa", tmp_path / "out")
    scores = GqaAccuracy()(official_predictions(data / "predictions.json"), opened(tmp_path / "out", "testdev"))
    assert_as_expected(scores, json.loads((data / "expected.json").read_text())["without_choices_no_consistency"])


@pytest.mark.golden
@pytest.mark.samples
def test_lxmerts_files_give_its_accuracy_and_no_score_by_type(golden: Path, samples: Path, tmp_path: Path) -> None:
    data = golden / "metrics/gqa/real_testdev"
    predictions = official_predictions(data / "predictions.json")
    build_lxmert(samples / "gqa", tmp_path / "all")
    ids = {prediction.id for prediction in predictions}
    lines = (tmp_path / "all/testdev.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "testdev.jsonl").write_text("".join(line for line in lines if json.loads(line)["id"] in ids))
    scores = by_name(GqaAccuracy()(predictions, opened(tmp_path, "testdev")))
    expected = json.loads((data / "expected.json").read_text())["lxmert_label_lookup_accuracy_fraction"]
    assert scores["accuracy"].value == pytest.approx(100 * expected, abs=1e-9)
    assert [name for name, score in scores.items() if not score.detail] == ["accuracy"]
    assert scores["accuracy"].protocol["questions"] == "all (the source does not say which are balanced)"


def test_answers_are_compared_letter_by_letter(make_dataset: Any) -> None:
    dataset = make_dataset({}, {}, {}, {})
    assert GqaAccuracy()(answered("yes", "Yes", " yes", "no"), dataset)[0].value == 25


def test_every_score_names_what_makes_it_comparable(make_dataset: Any) -> None:
    (accuracy, *_) = GqaAccuracy()(answered("yes"), make_dataset({}))
    assert (accuracy.name, accuracy.primary, accuracy.unit) == ("accuracy", True, "%")
    assert accuracy.protocol == {"questions": "balanced", "match": "exact text"}


def test_unbalanced_questions_count_only_as_entailed_ones(make_dataset: Any) -> None:
    dataset = make_dataset({"entailed": ["1", "2"]}, {"is_balanced": False}, {"is_balanced": False})
    scores = by_name(GqaAccuracy()(answered("yes", "yes", "no"), dataset))
    assert (scores["accuracy"].value, scores["accuracy"].count) == (100, 1)
    assert (scores["consistency"].value, scores["consistency"].count) == (50, 1)


def test_wrong_questions_say_nothing_about_consistency(make_dataset: Any) -> None:
    dataset = make_dataset({"entailed": ["1"]}, {"is_balanced": False}, {"entailed": ["1"]})
    scores = by_name(GqaAccuracy()(answered("no", "yes", "yes"), dataset))
    assert (scores["consistency"].value, scores["consistency"].count) == (100, 1)


@pytest.mark.parametrize(
    ("changes", "answers"),
    [
        ({"entailed": ["77"]}, ["yes", "yes"]),
        ({"entailed": ["1"]}, ["yes"]),
        ({"entailed": ["1"]}, ["no", "yes"]),
        ({}, ["yes", "yes"]),
    ],
    ids=["not in the split", "not predicted", "only behind a wrong answer", "none"],
)
def test_consistency_is_left_out_where_it_cannot_be_known(changes: Any, answers: list[str], make_dataset: Any) -> None:
    dataset = make_dataset(changes, {"is_balanced": False})
    assert "consistency" not in by_name(GqaAccuracy()(answered(*answers), dataset))


def test_choices_of_what_two_things_have_in_common_are_fixed(make_dataset: Any) -> None:
    common = {"answer": "color", "detailed": "twoCommon", "valid": ["size"], "plausible": ["size"]}
    dataset = make_dataset(common, common, {"valid": ["yes", "no"], "plausible": ["no"]})
    scores = by_name(GqaAccuracy()(answered("shape", "size", "yes"), dataset))
    assert scores["validity"].value == pytest.approx(200 / 3)
    assert scores["plausibility"].value == pytest.approx(100 / 3)


def test_a_question_without_choices_takes_validity_away_from_all(make_dataset: Any) -> None:
    scores = by_name(GqaAccuracy()(answered("yes", "yes"), make_dataset({"valid": ["yes"], "plausible": ["yes"]}, {})))
    assert not {"validity", "plausibility"} & set(scores)


def test_distribution_compares_answers_within_groups_and_has_no_percent(make_dataset: Any) -> None:
    colors = [{"group": "color", "answer": answer} for answer in ("red", "red", "red", "blue")]
    dataset = make_dataset(*colors, {"group": "place", "answer": "left"}, {"answer": "yes"})
    scores = by_name(GqaAccuracy()(answered("red", "blue", "blue", "green", "left", "no"), dataset))
    chi_squared = (1 - 3) ** 2 / 3 + (2 - 1) ** 2 / 1
    assert scores["distribution"].value == pytest.approx(chi_squared * 4 / 5 / 100)
    assert (scores["distribution"].unit, scores["distribution"].higher_is_better) == ("", False)
    assert scores["distribution"].count == 5


def test_the_error_of_the_distribution_is_that_of_questions_drawn_anew(make_dataset: Any) -> None:
    rng = np.random.default_rng(0)
    answers, guesses = rng.choice(["red", "blue", "green"], (2, 120))
    groups = rng.choice(["color", "shade"], 120)
    questions = [{"group": str(group), "answer": str(answer)} for group, answer in zip(groups, answers, strict=True)]
    score = by_name(GqaAccuracy()(answered(*map(str, guesses)), make_dataset(*questions)))["distribution"]

    def chi_squared(rows: Any) -> float:
        total = 0.0
        for group in ("color", "shade"):
            own = [row for row in rows if groups[row] == group]
            truths, said = Counter(answers[row] for row in own), Counter(guesses[row] for row in own)
            total += len(own) * sum((said[answer] - count) ** 2 / count for answer, count in truths.items())
        return total / len(rows) / 100

    assert score.value == pytest.approx(chi_squared(range(120)), rel=1e-12)
    drawn = error_by_resampling(120, chi_squared, make_dataset(*questions).split, "distribution")
    assert score.standard_error == pytest.approx(drawn, rel=1e-9)


def test_without_groups_there_is_no_distribution(make_dataset: Any) -> None:
    assert "distribution" not in by_name(GqaAccuracy()(answered("yes"), make_dataset({})))


def test_the_upper_bound_is_what_the_vocabulary_can_reach(make_dataset: Any) -> None:
    dataset = make_dataset({}, {"answer": "unheard of"}, {"answer": "unheard of", "is_balanced": False})
    predictions = answered("yes", "yes", "yes")
    bound = by_name(GqaAccuracy(AnswerVocabulary(("yes", "no")))(predictions, dataset))["upper-bound"]
    assert (bound.value, bound.count) == (50, 2)
    assert bound.protocol["vocabulary"].startswith("2 answers (")
    assert "upper-bound" not in by_name(GqaAccuracy()(predictions, dataset))


def test_kinds_of_questions_are_listed_in_order_as_details(make_dataset: Any) -> None:
    steps = [{"steps": number, "structural": kind} for number, kind in ((10, "query"), (2, "verify"), (2, "query"))]
    scores = GqaAccuracy()(answered("yes", "no", "yes"), make_dataset(*steps))
    details = [(score.name, score.value, score.count) for score in scores if score.detail]
    assert details == [
        ("accuracy-structural-query", 100, 2),
        ("accuracy-structural-verify", 0, 1),
        ("accuracy-steps-2", 50, 2),
        ("accuracy-steps-10", 100, 1),
        ("accuracy-words-4", pytest.approx(200 / 3), 3),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made[:-1], r"'testdev': 1 questions have no prediction: 6"),
        (lambda made: made[:1], r"6 questions have no prediction: 1, 2, 3, 4, 5, \.\.\."),
        (lambda made: [*made, Prediction("06", made[0].fields)], "1 questions were predicted but are not there: 06"),
        (lambda made: [*made, made[2]], "1 questions were predicted more than once: 2"),
        (lambda made: [*made[:-1], Prediction("6", {"answer": 3})], "1 questions have .* 'answer' is no text: 6"),
        (lambda made: [*made[:-1], Prediction("6", {})], "1 questions have .* 'answer' is no text: 6"),
    ],
    ids=["missing", "many missing", "unknown", "duplicate", "number", "no answer"],
)
def test_predictions_that_do_not_fit_the_split_are_refused(
    change: Callable[[list[Prediction]], list[Prediction]], message: str, make_dataset: Any
) -> None:
    with pytest.raises(DataError, match=message):
        GqaAccuracy()(change(answered(*["yes"] * 7)), make_dataset(*[{}] * 7))


def test_all_that_is_wrong_with_predictions_is_said_at_once(make_dataset: Any) -> None:
    with pytest.raises(DataError) as caught:
        GqaAccuracy()([*answered("yes", "yes"), *answered("yes"), Prediction("x", {})], make_dataset({}, {}, {}))
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"answer": None}, "1 questions have a hidden answer"), ({"is_balanced": False}, "no question is balanced")],
    ids=["hidden", "unbalanced"],
)
def test_a_split_that_cannot_be_scored_says_so(changes: dict[str, Any], message: str, make_dataset: Any) -> None:
    with pytest.raises(DataError, match=message):
        GqaAccuracy()(answered("yes"), make_dataset(changes))


def test_the_order_of_predictions_does_not_matter(make_dataset: Any) -> None:
    dataset = make_dataset({"entailed": ["1"]}, {})
    made = answered("yes", "no")
    assert GqaAccuracy()(made[::-1], dataset) == GqaAccuracy()(made, dataset)


def test_the_metric_keeps_its_promises(make_dataset: Any) -> None:
    check_metric(GqaAccuracy(), make_dataset({}, {}, {}), answered("yes", "no", "yes"))
