"""Demo data as the official question files of GQA.

The balanced questions of an image are those that are trained on and scored. Around them are others, which the files of
all questions have too: most of what a question entails is among them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from vlrun import DemoImage
from vlrun_demo.language import (
    COLOURS,
    FIGURES,
    KINDS,
    VERIFIED_COLOURS,
    Description,
    Question,
    answer,
    image_random,
    questions,
)
from vlrun_gqa.demo.entailment import derived, facts
from vlrun_gqa.demo.program import Wording, worded

SHARES = {
    "query colour": 29,
    "query kind": 26,
    "choose": 13,
    "side": 10,
    "exist": 11,
    "verify": 7,
    "either": 2,
    "both": 2,
}
QUESTIONS_PER_IMAGE = 5

_PREFIXES = {"train": "0", "val": "0", "testdev": "20", "test": "20"}  # ids of testdev and test start with 20
_YES_OR_NO = ["yes", "no"]


@dataclass(frozen=True)
class Asked:
    """A question about an image, with its official id."""

    image: DemoImage
    question_id: str
    question: Question
    is_balanced: bool

    @cached_property
    def wording(self) -> Wording:
        """The question in words, with its program."""
        return worded(self.image, self.question, image_random(int(self.question_id), "gqa words"))

    @property
    def answer(self) -> str:
        """The right answer."""
        return answer(self.image, self.question)


def asked_about(image: DemoImage) -> list[Asked]:
    """All questions about an image, the balanced ones first."""
    balanced = questions(image, SHARES, QUESTIONS_PER_IMAGE)
    others = dict.fromkeys(other for question in balanced for other in _related(question, image))
    prefix = f"{_PREFIXES[image.split]}{image.number % 10**6:06d}"  # leading zeros are a part of these ids
    return [
        Asked(image, f"{prefix}{position:02d}", question, position < len(balanced))
        for position, question in enumerate([*balanced, *(other for other in others if other not in balanced)])
    ]


def _related(question: Question, image: DemoImage) -> Iterator[Question]:
    """Other questions about the same things: those that GQA has in its unbalanced files."""
    rng = image_random(image.number, "related")
    kind = question.about.kind
    if kind in FIGURES:
        yield Question("exist", Description(kind=kind))
    if question.attribute == "colour" and kind:
        yield Question("query", question.about, "colour")
        yield Question("verify", question.about, "colour", (rng.choice(VERIFIED_COLOURS),))
    if question.asks == "exist" and kind:
        yield Question("either", Description(), options=(kind, rng.choice([other for other in KINDS if other != kind])))


def entailed(asked: Asked, neighbours: Iterable[Asked]) -> list[str]:
    """Lists the ids of the other questions about the image whose answers follow from the answer to ``asked``."""
    premises = facts(asked.question, asked.answer)
    return [
        other.question_id
        for other in neighbours
        if other is not asked and derived(premises, other.question) is not None
    ]


def write_gqa(folder: Path, chosen: Iterable[DemoImage]) -> None:
    """Writes balanced questions of all splits, all questions of val and testdev, choices, and the submission's."""
    by_image: dict[str, list[list[Asked]]] = {split: [] for split in _PREFIXES}
    for image in chosen:
        by_image[image.split].append(asked_about(image))
    for split in ("train", "val", "testdev"):
        rows = {asked.question_id: _row(asked, neighbours) for neighbours in by_image[split] for asked in neighbours}
        balanced = {name: row for name, row in rows.items() if row["isBalanced"]}
        _write(folder / f"{split}_balanced_questions.json", balanced)
        if split != "train":
            _write(folder / f"{split}_all_questions.json", rows)
    val, test, testdev = (list(chain.from_iterable(by_image[split])) for split in ("val", "test", "testdev"))
    _write(folder / "val_choices.json", _choices(val))
    _write(folder / "test_balanced_questions.json", _without_answers(asked for asked in test if asked.is_balanced))
    _write(folder / "submission_all_questions.json", _without_answers([*test, *testdev]))


def _row(asked: Asked, neighbours: Iterable[Asked]) -> dict[str, Any]:
    wording = asked.wording
    return {
        "semantic": [step.as_json() for step in wording.program],
        "entailed": entailed(asked, neighbours),
        "equivalent": [asked.question_id],
        "question": wording.text,
        "imageId": asked.image.id,
        "isBalanced": asked.is_balanced,
        "groups": wording.groups,
        "answer": wording.answer,
        "semanticStr": "->".join(map(str, wording.program)),
        "annotations": {name: wording.pointers[name] for name in ("answer", "question", "fullAnswer")},
        "types": wording.types,
        "fullAnswer": wording.full_answer,
    }


def _without_answers(chosen: Iterable[Asked]) -> dict[str, dict[str, Any]]:
    return {
        asked.question_id: {
            "question": asked.wording.text,
            "imageId": asked.image.id,
            "isBalanced": asked.is_balanced,
        }
        for asked in chosen
    }


def _choices(chosen: list[Asked]) -> dict[str, dict[str, list[str]]]:
    """Question id -> what could be an answer at all, and what is one to such a question about some image."""
    seen: dict[str, set[str]] = {}
    for asked in chosen:
        seen.setdefault(str(asked.wording.groups["local"]), set()).add(asked.wording.answer)
    return {
        asked.question_id: {
            "valid": _valid(asked.question),
            "plausible": sorted(seen[str(asked.wording.groups["local"])]),
        }
        for asked in chosen
    }


def _valid(question: Question) -> list[str]:
    if question.asks == "query":
        return list({"colour": COLOURS, "kind": KINDS}[str(question.attribute)])
    if question.asks == "choose":
        return list(question.options)
    return ["left", "right"] if question.asks == "side" else _YES_OR_NO


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
