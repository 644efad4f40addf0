"""Small questions, source folders and vocabularies for the tests of VQA."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from vlrun import Answers, Dataset, Example, Prediction
from vlrun.data.annotations import AnnotationFile
from vlrun_vqa.build_official import build_official
from vlrun_vqa.config import VqaV2Config
from vlrun_vqa.dataset import VqaAnswers, VqaQuestions


class Questions(Dataset[Answers]):
    """Examples held in a list."""

    def __init__(self, examples: Iterable[Example[Answers]]) -> None:
        self.examples = list(examples)
        self.split = "minival"
        self.protocol = {"annotations": "minival.jsonl"}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example[Answers]:
        return self.examples[index]


@pytest.fixture
def make_dataset() -> Callable[..., Questions]:
    """``make_dataset(target, ...)``: questions "0", "1", ...; a sequence of answers or a mapping of scores will do."""

    def make(*targets: Answers | Sequence[str] | Mapping[str, float] | None) -> Questions:
        return Questions(
            Example(str(number), "What is it?", ("COCO_val2014_000000000042",), _target(target))
            for number, target in enumerate(targets)
        )

    return make


def _target(given: Answers | Sequence[str] | Mapping[str, float] | None) -> Answers | None:
    if given is None or isinstance(given, Answers):
        return given
    return VqaAnswers(scores=given) if isinstance(given, Mapping) else VqaAnswers(tuple(given))


@pytest.fixture
def predict() -> Callable[..., list[Prediction]]:
    """``predict("yes", "2")``: answers to questions "0", "1"."""

    def make(*answers: Any) -> list[Prediction]:
        return [Prediction(str(number), {"answer": answer}) for number, answer in enumerate(answers)]

    return make


@pytest.fixture
def open_split() -> Callable[[Path, str], VqaQuestions]:
    def make(folder: Path, split: str) -> VqaQuestions:
        config = VqaV2Config(name="vqav2", annotations=folder, features=folder / "features", evaluate=[split])
        return VqaQuestions(config, split)

    return make


@pytest.fixture
def golden_split(
    golden: Path, tmp_path: Path, open_split: Callable[[Path, str], VqaQuestions]
) -> Callable[[str], tuple[VqaQuestions, Mapping[str, Any]]]:
    """``golden_split("real")``: the official files through the builder, as a dataset, and what to expect."""

    def make(name: str) -> tuple[VqaQuestions, Mapping[str, Any]]:
        folder = golden / "metrics/vqa" / name
        source = tmp_path / f"{name}-source"
        source.mkdir()
        for ours, theirs in (
            ("questions", "v2_OpenEnded_mscoco_train2014_questions"),
            ("annotations", "v2_mscoco_train2014_annotations"),
        ):
            (source / f"{theirs}.json").symlink_to(folder / f"{ours}.json")
        build_official(source, tmp_path / name)
        return open_split(tmp_path / name, "train"), json.loads((folder / "expected.json").read_text())

    return make


def question(number: int, text: str = "Is it red?") -> dict[str, Any]:
    return {"image_id": number // 1000, "question": text, "question_id": number}


def annotation(number: int, *answers: str, main: str | None = None) -> dict[str, Any]:
    """An annotation as in the official files."""
    return {
        "question_type": "is it",
        "multiple_choice_answer": answers[0] if main is None else main,
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": place}
            for place, answer in enumerate(answers, start=1)
        ],
        "image_id": number // 1000,
        "answer_type": "yes/no",
        "question_id": number,
    }


class Archive:
    """A small folder in the official layout, to be changed before it is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.questions: dict[str, list[dict[str, Any]]] = {
            "train2014": [question(number) for number in (9000, 9001, 25000)],
            "val2014": [question(number) for number in (42000, 42001, 73000)],
            "test2015": [question(1000)],
        }
        self.annotations: dict[str, list[dict[str, Any]]] = {
            "train2014": [annotation(number, "yes", *["no"] * 9) for number in (9000, 9001, 25000)],
            "val2014": [annotation(number, *["yes"] * 10) for number in (73000, 42000, 42001)],
        }
        self.subtypes: dict[str, str] = {}
        self.extra = ""

    def write(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        for subset, rows in self.questions.items():
            self._write(f"v2_OpenEnded_mscoco_{subset}_questions", subset, "questions", rows)
        for subset, rows in self.annotations.items():
            self._write(f"v2_mscoco_{subset}_annotations", subset, "annotations", rows)
        return self.folder

    def _write(self, stem: str, subset: str, key: str, rows: list[dict[str, Any]]) -> None:
        header = {"info": {}, "license": {}, "data_type": "mscoco", "task_type": "Open-Ended"}
        content = {**header, "data_subtype": self.subtypes.get(subset, subset), key: rows}
        (self.folder / f"{stem}{self.extra}.json").write_text(json.dumps(content))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "vqa")


@pytest.fixture
def records() -> Callable[[Path], list[dict[str, Any]]]:
    def read(path: Path) -> list[dict[str, Any]]:
        return list(AnnotationFile(path))

    return read


@pytest.fixture
def make_annotation() -> Callable[..., dict[str, Any]]:
    return annotation


@pytest.fixture
def make_question() -> Callable[..., dict[str, Any]]:
    return question
