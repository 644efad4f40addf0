"""The demo world as the official question files of GQA.

The balanced questions of an image are those that are trained on and scored. Around them are others, which the files of
all questions have too: most of what a question entails is among them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlrun_demo.entailment import derived, facts
from vlrun_demo.gqa_program import Wording, worded
from vlrun_demo.images import Image
from vlrun_demo.meaning import Description
from vlrun_demo.questions import VERIFIED_COLOURS, Question, answer, questions
from vlrun_demo.scene import COLOURS, FIGURES, KINDS, SHAPES, Scene, image_random

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

    image: Image
    scene: Scene
    question_id: str
    question: Question
    is_balanced: bool

    @cached_property
    def wording(self) -> Wording:
        return worded(self.scene, self.question, image_random(int(self.question_id), "gqa words"))

    @property
    def answer(self) -> str:
        return answer(self.scene, self.question)


def asked_about(image: Image) -> list[Asked]:
    """All questions about an image, the balanced ones first."""
    scene = image.scene()
    balanced = questions(scene, SHARES, QUESTIONS_PER_IMAGE)
    others = dict.fromkeys(other for question in balanced for other in _related(question, scene))
    found = [*balanced, *(other for other in others if other not in balanced)]
    # Leading zeros are a part of these ids
    first = f"{_PREFIXES[image.split]}{image.image_id % 10**6:06d}"
    return [
        Asked(image, scene, f"{first}{position:02d}", question, position < len(balanced))
        for position, question in enumerate(found)
    ]


def _related(question: Question, scene: Scene) -> Iterator[Question]:
    """Other questions about the same things: those that GQA has in its unbalanced files."""
    rng = image_random(scene.image_id, "related")
    kind = question.about.kind
    if kind in FIGURES:
        yield Question("exist", Description(kind=kind))
    if question.attribute == "colour" and kind:
        yield Question("query", question.about, "colour")
        yield Question("verify", question.about, "colour", (rng.choice(VERIFIED_COLOURS),))
    if question.asks == "exist" and kind:
        yield Question("either", Description(), options=(kind, rng.choice([k for k in KINDS if k != kind])))


def entailed(asked: Asked, all_of_image: Iterable[Asked]) -> list[str]:
    """Ids of the other questions about the image whose answers follow from the answer to ``asked``."""
    known = facts(asked.question, asked.answer)
    return [
        other.question_id for other in all_of_image if other is not asked and derived(known, other.question) is not None
    ]


def write_gqa(folder: Path, chosen: Iterable[Image]) -> None:
    """Writes balanced questions of all splits, all questions of val and testdev, choices, and the submission's."""
    of_split: dict[str, dict[str, list[Asked]]] = {split: {} for split in _PREFIXES}
    for image in chosen:
        of_split[image.split][image.stem] = asked_about(image)
    for split in ("train", "val", "testdev"):
        rows = dict(_rows(of_split[split].values()))
        balanced = {name: row for name, row in rows.items() if row["isBalanced"]}
        _write(folder / f"{split}_balanced_questions.json", balanced)
        if split != "train":
            _write(folder / f"{split}_all_questions.json", rows)
    _write(folder / "val_choices.json", _choices([a for found in of_split["val"].values() for a in found]))
    hidden = {split: [a for found in of_split[split].values() for a in found] for split in ("test", "testdev")}
    _write(
        folder / "test_balanced_questions.json",
        {asked.question_id: _hidden(asked) for asked in hidden["test"] if asked.is_balanced},
    )
    _write(
        folder / "submission_all_questions.json",
        {asked.question_id: _hidden(asked) for found in hidden.values() for asked in found},
    )


def _rows(images: Iterable[list[Asked]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for of_image in images:
        for asked in of_image:
            wording = asked.wording
            yield (
                asked.question_id,
                {
                    "semantic": [step.as_json() for step in wording.program],
                    "entailed": entailed(asked, of_image),
                    "equivalent": [asked.question_id],
                    "question": wording.text,
                    "imageId": asked.image.stem,
                    "isBalanced": asked.is_balanced,
                    "groups": wording.groups,
                    "answer": wording.answer,
                    "semanticStr": "->".join(map(str, wording.program)),
                    "annotations": {
                        "answer": wording.pointers["answer"],
                        "question": wording.pointers["question"],
                        "fullAnswer": wording.pointers["fullAnswer"],
                    },
                    "types": wording.types,
                    "fullAnswer": wording.full_answer,
                },
            )


def _hidden(asked: Asked) -> dict[str, Any]:
    return {"question": asked.wording.text, "imageId": asked.image.stem, "isBalanced": asked.is_balanced}


def _choices(chosen: list[Asked]) -> dict[str, dict[str, list[str]]]:
    """Question id -> what could be an answer at all, and what has been one to such a question somewhere."""
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
        return list({"colour": COLOURS, "kind": (*FIGURES, *SHAPES)}[str(question.attribute)])
    if question.asks == "choose":
        return list(question.options)
    return ["left", "right"] if question.asks == "side" else _YES_OR_NO


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
