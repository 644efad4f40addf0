"""Small questions, source folders and vocabularies for the tests of GQA."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlrun import Answers, Dataset, Example
from vlrun_gqa.dataset import target_of
from vlrun_gqa.records import GqaQuestion


class Questions(Dataset[Answers]):
    """Records held in a list."""

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        checked = [GqaQuestion.model_validate(record) for record in records]
        self.examples = [Example(record.id, record.text, (record.image,), target_of(record)) for record in checked]
        self.split = "testdev"
        self.protocol = {"annotations": "testdev.jsonl"}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example[Answers]:
        return self.examples[index]


@pytest.fixture
def make_dataset() -> Callable[..., Questions]:
    """``make_dataset(changes, ...)``: balanced questions "0", "1", ... with answer "yes", each changed as given."""

    def make(*changes: Mapping[str, Any]) -> Questions:
        base = {"text": "Is the kite red?", "image": "n7", "answer": "yes", "is_balanced": True}
        return Questions({**base, "id": str(number), **change} for number, change in enumerate(changes))

    return make


def official_question(**changes: Any) -> dict[str, Any]:
    """A question as in the official files."""
    return {
        "question": "Is the kite red?",
        "imageId": "2370799",
        "isBalanced": True,
        "answer": "no",
        "fullAnswer": "No, the kite is blue.",
        "semanticStr": "select: kite (3)->verify color: red [0]",
        "semantic": [
            {"operation": "select", "dependencies": [], "argument": "kite (3)"},
            {"operation": "verify color", "dependencies": [0], "argument": "red"},
        ],
        "entailed": ["0100", "0099"],
        "equivalent": ["0099"],
        "groups": {"global": None, "local": "06-kite_red"},
        "types": {"structural": "verify", "semantic": "attr", "detailed": "verifyAttrC"},
        "annotations": {"question": {"2": "3"}, "answer": {}, "fullAnswer": {"2": "3"}},
        **changes,
    }


@pytest.fixture
def make_question() -> Callable[..., dict[str, Any]]:
    return official_question


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Path]:
    """``source(**{file stem: content})``: a folder with these JSON files; double underscores become slashes."""

    def write(**files: Any) -> Path:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        for stem, content in files.items():
            path = folder / f"{stem.replace('__', '/')}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., Any]:
    """``make_task(answers, **options)``: the task on a vocabulary of these answers."""

    def make(answers: Sequence[str] = ("yes", "no", "red", "left"), **options: Any) -> Any:
        from vlrun.blocks.answers import write_answers
        from vlrun_gqa.config import GqaConfig, GqaDatasetConfig
        from vlrun_gqa.task import GqaTask

        write_answers(tmp_path / "answers.json", answers)
        dataset = GqaDatasetConfig(
            name="gqa", annotations=tmp_path, features=tmp_path / "features", evaluate=["testdev"]
        )
        return GqaTask(GqaConfig(**{"name": "gqa", "dataset": dataset, **options}))

    return make


@pytest.fixture
def outputs(golden: Path) -> dict[str, Any]:
    """What LXMERT-S's program for GQA made of all questions of ``gqa.npz``; the losses are those of the first batch."""
    vectors = np.load(golden / "lxmert_s/gqa.npz")
    dumped = json.loads((golden / "lxmert_s/gqa_predict_example.json").read_text())
    steps = range(len(vectors["train/loss"]))
    targets = np.concatenate([vectors[f"in/step{step}/target"] for step in steps])
    assert (targets == 1).sum(axis=1).tolist() == targets.astype(bool).sum(axis=1).tolist() == [1] * len(targets)
    answers = [f"ans{index}" for index in range(targets.shape[1])]
    return {
        "answers": answers,
        "question_ids": [str(name) for step in steps for name in vectors[f"in/step{step}/question_id"]],
        "batch_size": len(vectors["in/step0/target"]),
        "logits": np.concatenate([vectors[f"out/step{step}/logit_init"] for step in steps]),
        "gold": [answers[index] for index in targets.argmax(axis=1)],
        "predictions": vectors["out/predict_init"].tolist(),
        "score": vectors["out/predict_init_score"].item(),
        "losses": {name: vectors[f"out/step0/{name}"].item() for name in ("bce_loss", "mce_loss")},
        "dumped": [(str(name), answer) for name, answer in dumped["predictions"]],
        "file": dumped["file_text"],
    }
