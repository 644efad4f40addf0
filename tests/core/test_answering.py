"""Answer vocabularies, soft targets, the three losses, and moving a head from one vocabulary to another."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vlrun import AnsweringConfig, Answers, Batch, CheckpointError, DataError, DatasetConfig, Example, Metric
from vlrun.blocks.answering import AnsweringTask, pretraining_spelling
from vlrun.blocks.answers import AnswerVocabulary, frequent_answers, read_answers, soft_score, write_answers
from vlrun.blocks.heads import PooledClassifier

NO_RUN: Any = SimpleNamespace(name="vqa", note=lambda message: None)  # this task needs little of it
WORDS = ["yes", "no", "2", "red"]


class Questions(AnsweringTask):
    def metrics(self) -> list[Metric]:
        return []


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def build(answers: list[str] = WORDS, **options: Any) -> Questions:
        write_answers(tmp_path / "answers.json", answers)
        dataset = DatasetConfig(name="d", annotations=tmp_path, features=tmp_path, evaluate=["val"])
        return Questions(AnsweringConfig(name="q", dataset=dataset, **options))

    return build


def targets_of(task: Questions, *targets: Answers | None) -> dict[str, Tensor]:
    examples = [Example(str(index), "?", ("i",), target) for index, target in enumerate(targets)]
    return dict(task.collate(examples, None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        ["a", "b", ""],
        {"b": 1, "a": 0, "": 2},
        [{"a": 0, "b": 1, "": 2}, {"0": "a", "1": "b", "2": ""}],
        [{"ans": "a", "dsets": ["vqa"]}, {"ans": "b", "dsets": []}, {"ans": "", "dsets": []}],
    ],
    ids=["list", "LXMERT's object", "ROSITA's pair", "LXMERT's pre-training list"],
)
def test_every_published_layout_gives_the_same_vocabulary(tmp_path: Path, content: Any) -> None:
    (tmp_path / "answers.json").write_text(json.dumps(content))
    vocabulary = read_answers(tmp_path / "answers.json")
    assert list(vocabulary) == ["a", "b", ""]
    assert (vocabulary.index_of("b"), vocabulary.index_of("c"), "c" in vocabulary) == (1, None, False)
    assert vocabulary.hash == AnswerVocabulary(("a", "b", "")).hash != AnswerVocabulary(("b", "a", "")).hash


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[", "not readable JSON"),
        ('{"a": 0, "b": 2}', "indices 0, 1, 2"),
        ('["a", "a"]', "more than once: 'a'"),
        ("[1]", "expected a list"),
        ("[]", "expected a list"),
    ],
)
def test_a_damaged_vocabulary_is_refused(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "answers.json").write_text(text)
    with pytest.raises(DataError, match=what):
        read_answers(tmp_path / "answers.json")


def test_frequent_answers_have_one_order() -> None:
    assert frequent_answers({"b": 3, "a": 3, "c": 9, "d": 1}, at_least=2) == ["c", "a", "b"]


def test_soft_scores_are_the_ladder_of_both_papers() -> None:
    assert [soft_score(count, 10) for count in range(6)] == [0, 0.3, 0.6, 0.9, 1, 1]
    assert [soft_score(count, 1) for count in (0, 1)] == [0, 1]


def test_targets_come_from_answers_or_from_scores(make: Any) -> None:
    given = Answers(("yes",) * 3 + ("2",) * 6 + ("blue",))
    scored = Answers(scores={"red": 0.6, "blue": 1.0})
    targets = targets_of(make(loss="kl-then-bce"), given, None)
    assert targets["soft_scores"].tolist() == [pytest.approx([0.9, 0, 1, 0]), [0, 0, 0, 0]]
    assert targets["shares"].tolist() == [pytest.approx([0.3, 0, 0.6, 0]), [0, 0, 0, 0]]
    assert targets["known"].tolist() == [1, 0]
    assert targets_of(make(), scored)["soft_scores"].tolist() == [pytest.approx([0, 0, 0, 0.6])]
    with pytest.raises(DataError, match="question '0' comes with scores"):
        targets_of(make(loss="kl"), scored)


def test_the_loss_switches_at_its_epoch_says_so_and_is_right_after_a_resume(make: Any) -> None:
    task = make(loss="kl-then-bce", switch_epoch=2)
    targets = targets_of(task, Answers(("yes",)))
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]])
    values = {}
    for epoch in (0, 1, 2, 3):
        task.start_epoch(epoch, NO_RUN)
        values[epoch] = task.loss(logits, targets)["answer"].item()
    assert values[0] == values[1] != values[2] == values[3]
    notes: list[str] = []
    told: Any = SimpleNamespace(name="vqa", note=notes.append)
    for epoch in (0, 1, 2, 3):
        task.start_epoch(epoch, told)
    (note,) = notes
    assert note.startswith("epoch 3: vqa trains with binary cross entropy from here on, after KL divergence")
    fresh = pickle.loads(pickle.dumps(make(loss="kl-then-bce", switch_epoch=2)))
    fresh.start_epoch(3, NO_RUN)
    assert fresh.loss(logits, targets)["answer"].item() == values[3]


@pytest.mark.parametrize("loss", ["bce", "kl", "cross-entropy"])
def test_hidden_answers_teach_nothing(make: Any, loss: str) -> None:
    task = make(loss=loss)
    targets = targets_of(task, Answers(("yes",)), None)
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    task.loss(logits, targets)["answer"].backward()
    assert task.loss_counts(targets)["answer"] == 1
    assert logits.grad is not None
    assert logits.grad[0].abs().sum() > 0
    assert logits.grad[1].abs().sum() == 0


@pytest.mark.golden
@pytest.mark.parametrize("name", ["vqa", "gqa"])
def test_scaled_losses_equal_lxmert(golden: Path, make: Any, name: str) -> None:
    vectors = np.load(golden / "lxmert_s" / f"{name}.npz")
    logits = torch.from_numpy(vectors["out/step0/logit_init"])
    scores = torch.from_numpy(vectors["in/step0/target"])
    targets = {"soft_scores": scores, "known": torch.ones(len(scores))}
    bce = make(loss="bce").loss(logits, targets)["answer"] / len(scores)
    assert bce.item() == pytest.approx(vectors["out/step0/bce_loss"].item(), rel=1e-5)
    # the original trains class 0 where no answer of the vocabulary is right; ours leaves such questions out
    first_class = logits.log_softmax(1)[scores.sum(1) == 0, 0].sum() * logits.shape[1]
    entropy = make(loss="cross-entropy").loss(logits, targets)["answer"]
    theirs = vectors["out/step0/mce_loss"].item()
    assert (entropy - first_class).item() / len(scores) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.golden
def test_mean_losses_equal_rosita(golden: Path, make: Any) -> None:
    vectors = np.load(golden / "rosita" / "vqa.npz")
    logits = torch.from_numpy(vectors["out/pred_qa"])
    targets = {
        "soft_scores": torch.from_numpy(vectors["label/bce"]),
        "shares": torch.from_numpy(vectors["label/kld"]),
        "known": torch.from_numpy(vectors["label/valid"]),
    }
    task = make(loss="kl-then-bce", scale_by_answers=False)
    for epoch, name in ((0, "kld"), (task.config.switch_epoch, "bce")):
        task.start_epoch(epoch, NO_RUN)
        mean = task.loss(logits, targets)["answer"] / task.loss_counts(targets)["answer"]
        assert mean.item() == pytest.approx(vectors[f"loss/{name}"].item(), rel=1e-9)


def test_predictions_are_answers(make: Any) -> None:
    logits = torch.tensor([[0.0, 3.0, 0.0, 3.0], [0.0, 0.0, 0.0, 9.0]])
    batch = Batch(("07", "8"), None, {})  # type: ignore[arg-type]
    predictions = make().predict(logits, batch)
    assert [(prediction.id, prediction.fields["answer"]) for prediction in predictions] == [("07", "no"), ("8", "red")]
    assert predictions[0].fields["score"] == pytest.approx(0.476, abs=1e-3)


@pytest.mark.golden
def test_an_answer_head_moves_to_another_vocabulary_as_in_lxmert(golden: Path, make: Any) -> None:
    notes = json.loads((golden / "lxmert_s" / "answer_head_transfer.json").read_text())
    vectors = np.load(golden / "lxmert_s" / "answer_head_transfer.npz")
    assert [pretraining_spelling(given) for given, _ in notes["convert_examples"]] == [
        expected for _, expected in notes["convert_examples"]
    ]
    names = {"0": "dense0", "2": "layer_norm", "3": "dense1"}
    snapshot = {
        f"{names[layer]}.{kind}": torch.from_numpy(vectors[f"snapshot/module.answer_head.logit_fc.{layer}.{kind}"])
        for layer in names
        for kind in ("weight", "bias")
    }
    task = make(notes["label2ans"])
    theirs = [entry["ans"] for entry in notes["all_ans"]]
    adapted, lines = task.adapt_imported_head(snapshot, {"answers": theirs})
    for layer, name in names.items():
        for kind in ("weight", "bias"):
            expected = torch.from_numpy(vectors[f"head_after/logit_fc.{layer}.{kind}"])
            assert torch.equal(adapted[f"{name}.{kind}"], expected)
    assert f"{notes['loaded']} of {len(notes['label2ans'])} answers found" in lines[0]
    without = [answer for answer, row in zip(notes["label2ans"], notes["row_in_all_ans"], strict=True) if row < 0]
    assert lines[1] == f"answer head: not found: {', '.join(map(repr, without))}"


def test_a_head_of_unknown_answers_is_refused_and_one_of_the_same_answers_kept(make: Any) -> None:
    head = PooledClassifier(8, len(WORDS)).state_dict()
    with pytest.raises(CheckpointError, match="--answers FILE"):
        make().adapt_imported_head(head, {})
    kept, lines = make().adapt_imported_head(head, {"answers": WORDS})
    assert kept is head
    assert "the same 4 answers" in lines[0]


@pytest.mark.parametrize("theirs", [["yes"], [*WORDS, "blue"]], ids=["fewer", "more"])
def test_a_head_with_other_rows_than_its_list_has_answers_is_refused_with_both(make: Any, theirs: list[str]) -> None:
    """Else rows of other answers would be taken, without any sign of it."""
    head = PooledClassifier(8, len(WORDS)).state_dict()
    with pytest.raises(CheckpointError, match=rf"a head for 4 answers.* a list of {len(theirs)}\b.*--answers FILE"):
        make().adapt_imported_head(head, {"answers": theirs})


@pytest.mark.parametrize("name", ["dense1.weight", "dense1.bias"])
def test_an_imported_head_without_its_last_layer_is_refused(make: Any, name: str) -> None:
    head = PooledClassifier(8, len(WORDS)).state_dict()
    with pytest.raises(CheckpointError, match="3 biases|4 rows of weights" if name == "dense1.bias" else "3 rows"):
        make().adapt_imported_head({**head, name: head[name][:3]}, {"answers": WORDS})
    del head[name]
    with pytest.raises(CheckpointError, match="not whole"):
        make().adapt_imported_head(head, {"answers": WORDS})


def test_real_vocabularies_find_as_many_rows_as_the_original(golden: Path, samples: Path) -> None:
    rows = json.loads((golden / "lxmert_s" / "answer_rows_real.json").read_text())
    theirs = {answer: row for row, answer in enumerate(read_answers(samples / "vocabs" / "lxmert_all_ans.json"))}
    for name, file in (("vqa", "lxmert_vqa_trainval_label2ans.json"), ("gqa", "lxmert_gqa_trainval_label2ans.json")):
        ours = read_answers(samples / "vocabs" / file)
        assert [theirs.get(pretraining_spelling(answer), -1) for answer in ours] == rows[name]["rows"]


def test_choices_are_all_answers_best_first(make: Any) -> None:
    choices = make().choices(torch.tensor([[0.0, 3.0, 1.0, 3.0]]), Batch(("7",), None, {}))  # type: ignore[arg-type]
    assert [choice.text for choice in choices] == ["no", "red", "2", "yes"], "equal ones in the vocabulary's order"
    assert sum(choice.probability or 0 for choice in choices) == pytest.approx(1)
    assert choices[0].probability == choices[1].probability == pytest.approx(np.exp(3) / (2 * np.exp(3) + np.e + 1))
