"""Training targets as the authors' loaders make them, the head, and what a task writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vlrun import Backbone, BackboneOutput, Encoding, Example, Pair, PairEncoder, Prediction, RegionBatch
from vlrun.blocks.answers import read_answers, write_answers
from vlrun.testing import check_task, make_regions
from vlrun_vqa.build_published import build_rosita
from vlrun_vqa.config import VqaConfig
from vlrun_vqa.dataset import VqaAnswers
from vlrun_vqa.metric import VqaAccuracy
from vlrun_vqa.task import VqaTask

MakeTask = Callable[..., VqaTask]


@pytest.fixture
def make_task(tmp_path: Path) -> MakeTask:
    """``make_task(vocabulary, options)``: a list of answers, or the path of one."""

    def make(vocabulary: Sequence[str] | Path = ("", "yes", "no", "2"), **options: Any) -> VqaTask:
        if not isinstance(vocabulary, Path):
            write_answers(tmp_path / "answers.json", vocabulary)
            vocabulary = tmp_path / "answers.json"
        dataset = {"name": "vqav2", "annotations": "annotations", "features": "features", "evaluate": ["val"]}
        return VqaTask(VqaConfig(**{"name": "vqa", "dataset": dataset, "answers": vocabulary, **options}))

    return make


@pytest.fixture
def rosita_task(make_task: MakeTask) -> MakeTask:
    def make(vocabulary: Path) -> VqaTask:
        return make_task(vocabulary, loss="kl-then-bce", scale_by_answers=False, normalise_answers=True)

    return make


class _Backbone(Backbone):
    """The pooled output is the mean of the region features."""

    hidden_size = 4

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        return self._encode

    def _encode(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        tokens = torch.ones(len(pairs), 2, dtype=torch.int64)
        boxes = torch.from_numpy(regions.boxes)
        features = torch.from_numpy(regions.features).float()
        return Encoding(tokens, tokens > 0, features, boxes, torch.from_numpy(regions.mask))

    def forward(self, encoding: Encoding) -> BackboneOutput:
        regions = encoding.region_features
        text = torch.zeros(*encoding.token_ids.shape, 4)
        return BackboneOutput(text, regions, regions.mean(dim=1), encoding.text_mask, encoding.region_mask)

    def matching_head(self) -> nn.Module:
        return nn.Linear(4, 2)


def collate(task: VqaTask, examples: Sequence[Example[Any]]) -> dict[str, np.ndarray]:
    regions = make_regions(["image"] * len(examples), feature_size=4)
    encoding = _Backbone()._encode([Pair("", "image")] * len(examples), regions)
    return {name: values.numpy() for name, values in task.collate(examples, regions, encoding).items()}


def of_answers(answers: Sequence[str]) -> Example[Any]:
    return Example("7", "What?", ("image",), VqaAnswers(tuple(answers)))


# --- targets ---


@pytest.fixture
def soft_targets(golden: Path) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads((golden / "metrics/vqa/soft_targets/soft_targets.json").read_text())
    assert items
    return items


@pytest.mark.golden
@pytest.mark.samples
def test_raw_answers_of_real_questions_score_by_their_count(
    soft_targets: list[dict[str, Any]], samples: Path, make_task: MakeTask
) -> None:
    task = make_task(samples / "vocabs/lxmert_vqa_trainval_label2ans.json")
    found = collate(task, [of_answers(item["answers"]) for item in soft_targets])["soft_scores"]
    for item, row in zip(soft_targets, found, strict=True):
        assert as_mapping(task, row) == pytest.approx(item["raw_count_scores_in_vocab"], abs=1e-6)


@pytest.mark.golden
@pytest.mark.samples
def test_normalised_answers_of_real_questions_have_rositas_scores_and_shares(
    soft_targets: list[dict[str, Any]], samples: Path, rosita_task: MakeTask
) -> None:
    task = rosita_task(samples / "vocabs/rosita_vqa_answer_vocab.json")
    targets = collate(task, [of_answers(item["answers"]) for item in soft_targets])
    for item, scores, shares in zip(soft_targets, targets["soft_scores"], targets["shares"], strict=True):
        assert as_mapping(task, scores) == pytest.approx(item["rosita_bce_scores_in_vocab"], abs=1e-6)
        assert as_mapping(task, shares) == pytest.approx(item["rosita_kld_probs_in_vocab"], abs=1e-6)


def as_mapping(task: VqaTask, row: np.ndarray) -> dict[str, float]:
    return {task.vocabulary.answers[index]: float(row[index]) for index in np.flatnonzero(row)}


@pytest.mark.golden
@pytest.mark.samples
def test_labels_are_the_vectors_of_rositas_loader(golden: Path, samples: Path, rosita_task: MakeTask) -> None:
    labels = json.loads((golden / "rosita/answers.json").read_text())["labels"]
    known = [label for label in labels if label["bce_valid"]]
    assert known
    targets = collate(
        rosita_task(samples / "vocabs/rosita_vqa_answer_vocab.json"), [of_answers(label["answers"]) for label in known]
    )
    for key, name in (("bce", "soft_scores"), ("kld", "shares")):
        for label, row in zip(known, targets[name], strict=True):
            found = {str(index): float(row[index]) for index in np.flatnonzero(row)}
            assert found == pytest.approx(label[key], abs=1e-7)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("split", "parts"), [("train", ("train", "val")), ("val", ("minival",))], ids=["training", "evaluation"]
)
def test_a_data_set_in_rositas_files_gives_the_targets_of_its_loader(
    split: str, parts: Sequence[str], golden: Path, tmp_path: Path, rosita_task: MakeTask, open_split: Any
) -> None:
    build_rosita(golden / "rosita/mini/annotations", tmp_path)
    task = rosita_task(tmp_path / "answers.json")
    loaders = np.load(golden / "rosita/loaders.npz")
    examples = [example for part in parts for example in open_split(tmp_path, part)]
    targets = collate(task, examples)
    assert [example.id for example in examples] == loaders[f"vqa/{split}/text_id"].tolist()
    if split == "val":  # the original's targets are empty outside training; ours serve the metric's sake alone
        assert not loaders["vqa/val/label_bce"].any()
        return
    valid = loaders["vqa/train/valid_bce"]
    np.testing.assert_array_equal(targets["known"], valid)
    np.testing.assert_allclose(targets["soft_scores"], loaders["vqa/train/label_bce"], atol=1e-7)
    np.testing.assert_allclose(targets["shares"], loaders["vqa/train/label_kld"], atol=1e-7)


def test_answers_are_looked_up_as_they_were_typed_or_normalised(make_task: MakeTask) -> None:
    example = of_answers(["Yes!"] * 3 + ["two"] * 6 + ["maybe"])
    raw, normalised = (
        collate(make_task(normalise_answers=flag), [example])["soft_scores"][0] for flag in (False, True)
    )
    np.testing.assert_allclose(raw, [0, 0, 0, 0])
    np.testing.assert_allclose(normalised, [0, 0.9, 0, 1])


def test_scores_of_the_source_are_the_targets(make_task: MakeTask) -> None:
    example = Example("7", "What?", ("image",), VqaAnswers(scores={"yes": 0.6, "cat": 1.0}))
    np.testing.assert_allclose(collate(make_task(), [example])["soft_scores"], [[0, 0.6, 0, 0]])


# --- the task ---


def test_the_defaults_are_those_of_lxmert(make_task: MakeTask) -> None:
    config = make_task().config
    assert (config.loss, config.scale_by_answers, config.normalise_answers) == ("bce", True, False)


@pytest.mark.parametrize(
    "options",
    [{}, {"loss": "kl-then-bce", "normalise_answers": True, "scale_by_answers": False}, {"loss": "cross-entropy"}],
    ids=["LXMERT", "ROSITA", "cross-entropy"],
)
def test_the_task_keeps_the_promises_that_the_core_relies_on(options: dict[str, Any], make_task: MakeTask) -> None:
    regions = make_regions([f"image_{number}" for number in range(4)], feature_size=4)
    answers = [["yes"] * 10, ["no"] * 4 + ["2"] * 6, ["maybe"] * 10, None]
    examples = [
        Example(str(number), "Is it?", (f"image_{number}",), None if given is None else VqaAnswers(tuple(given)))
        for number, given in enumerate(answers)
    ]
    batch = check_task(make_task(**options), _Backbone(), examples, regions)
    assert batch.targets["known"].tolist() == [1, 1, 1, 0]


def test_the_metric_knows_the_vocabulary(make_task: MakeTask) -> None:
    task = make_task()
    (metric,) = task.metrics()
    assert isinstance(metric, VqaAccuracy)
    assert metric.vocabulary == task.vocabulary
    assert metric.config.evaluator == "current"


def test_predictions_become_the_servers_file(make_task: MakeTask, predict: Any, tmp_path: Path) -> None:
    task = make_task()
    assert task.submission_suffix == ".json"
    task.write_submission(predict("yes", ""), tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {"question_id": 0, "answer": "yes"},
        {"question_id": 1, "answer": ""},
    ]


@pytest.mark.samples
def test_published_vocabularies_hold_the_same_answers_in_other_orders(samples: Path) -> None:
    lxmert, rosita = (
        read_answers(samples / "vocabs" / name)
        for name in ("lxmert_vqa_trainval_label2ans.json", "rosita_vqa_answer_vocab.json")
    )
    assert len(lxmert) == len(rosita) == 3129
    assert set(lxmert) == set(rosita)
    assert lxmert.hash != rosita.hash
    assert lxmert.index_of("") == rosita.index_of("") == 0


def test_a_prediction_is_shown_with_what_people_said(make_task: MakeTask) -> None:
    task, people = make_task(), of_answers(["no"] + ["2"] * 2 + ["yes"] * 7)
    case = task.case(Prediction("7", {"answer": "2", "score": 0.5}), people)
    assert (case.texts, case.image_ids) == (("What?",), ("image",))
    assert case.truth == {"answers": {"yes": 7, "2": 2, "no": 1}}
    assert (case.predicted, case.right, case.credit) == ("2", "yes (7), 2 (2), no (1)", pytest.approx(0.6))
    assert task.case(Prediction("7", {"answer": "Yes."}), people).credit == 1  # as the evaluator spells it
    scores = Example("7", "What?", ("image",), VqaAnswers(scores={"yes": 0.3, "no": 1}))
    case = task.case(Prediction("7", {"answer": "yes"}), scores)
    assert (case.truth, case.credit) == ({"scores": {"no": 1, "yes": 0.3}}, 0.3)
    hidden = task.case(Prediction("7", {"answer": "yes"}), Example("7", "What?", ("image",)))
    assert (hidden.truth, hidden.right, hidden.credit) == ({}, "", None)
