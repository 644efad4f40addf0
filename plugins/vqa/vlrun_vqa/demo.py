"""Demo data as the official files of VQA v2: questions, and ten people's answers to each.

ROSITA's minival lies beside them, as its authors publish it: a part of val2014 with files of its own. The answers of
test2015, and of its part test-dev2015, are hidden.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrun import DemoImage
from vlrun_demo.language import (
    ANSWER_WORDS,
    Question,
    answer,
    answer_words,
    image_random,
    questions_in_words,
    with_article,
)

PARTS = {
    "train2014": ("train",),
    "val2014": ("nominival", "minival"),
    "minival2014": ("minival",),
    "test2015": ("test-dev", "test"),
    "test-dev2015": ("test-dev",),
}
"""Part of the dataset -> the splits of images that it asks about."""
HIDDEN = ("test2015", "test-dev2015")

QUESTION_TYPES = ("how many", "are there any", "is there a", "what color is the", "what is the", "is the", "what")
"""Official types, which are the first words of questions; of those that fit, the first counts."""

NUM_PEOPLE = 10
_FEWEST_AGREE = 5  # more than others can ever have in common: the right answer is the most common one
_AGREEMENT = (40, 20, 15, 10, 8, 7)  # weights of 10, 9, ... 5 people that agree; real ones agree less
_QUESTIONS_PER_ID = 1000  # question id = image id * 1000 + position
_HEADER = {
    "info": {
        "description": "Generated data in the format of VQA v2.0; no part of the real dataset.",
        "url": "https://visualqa.org",
        "version": "2.0",
        "year": 2017,
        "contributor": "vlrun-demo",
        "date_created": "2017-04-26 17:07:13",
    },
    "task_type": "Open-Ended",
    "data_type": "mscoco",
    "license": {"url": "https://www.apache.org/licenses/LICENSE-2.0", "name": "Apache License 2.0"},
}


@dataclass(frozen=True)
class Asked:
    """A question about an image in words, with its official id and type."""

    image: DemoImage
    position: int
    question: Question
    text: str

    @property
    def question_id(self) -> int:
        """The official id, which contains that of the image."""
        return self.image.number * _QUESTIONS_PER_ID + self.position

    @property
    def answer(self) -> str:
        """The right answer in the most usual word."""
        return self.answer_words[0]

    @property
    def answer_words(self) -> tuple[str, ...]:
        """What the right answer can be called."""
        return answer_words(self.question, answer(self.image, self.question))

    @property
    def question_type(self) -> str:
        """The official type."""
        return next(words for words in QUESTION_TYPES if self.text.lower().startswith(words))

    @property
    def answer_type(self) -> str:
        """The official type: ``yes/no``, ``number`` or ``other``."""
        return {"exist": "yes/no", "verify": "yes/no", "count": "number"}.get(self.question.asks, "other")


def asked_about(chosen: Iterable[DemoImage]) -> Iterator[Asked]:
    """Asks questions about some images, image by image."""
    for image in chosen:
        for position, (question, text) in enumerate(questions_in_words(image)):
            yield Asked(image, position, question, text)


def ten_answers(asked: Asked) -> list[dict[str, Any]]:
    """What ten people say: most give the right answer, others a synonym, a slip or a guess."""
    rng = image_random(asked.question_id, "answers")
    right = asked.answer
    synonyms = asked.answer_words[1:]
    (agree,) = rng.choices(range(NUM_PEOPLE, _FEWEST_AGREE - 1, -1), _AGREEMENT)
    said = [right] * agree
    while len(said) < NUM_PEOPLE:
        other = _other_answer(asked, synonyms, rng)
        if said.count(other) < _FEWEST_AGREE - 1:
            said.append(other)
    rng.shuffle(said)
    return [
        {
            "answer": words,
            "answer_confidence": _confidence(rng, sure=words == right),
            "answer_id": number,
        }
        for number, words in enumerate(said, 1)
    ]


def _other_answer(asked: Asked, synonyms: tuple[str, ...], rng: random.Random) -> str:
    if synonyms and rng.random() < 0.6:
        return rng.choice(synonyms)
    habit = rng.random()
    if asked.answer_type == "other" and habit < 0.15:
        return with_article(rng.choice(("a", "the")), asked.answer)
    if habit < 0.18:
        return asked.answer.capitalize()
    return rng.choice(("unknown", "not sure") if habit < 0.22 else _wrong_answers(asked))


def _wrong_answers(asked: Asked) -> Sequence[str]:
    """What somebody who did not look well says."""
    right, question = asked.answer, asked.question
    if asked.answer_type == "yes/no":
        return "maybe", "no" if right == "yes" else "yes"
    if question.asks == "count":
        return str(int(right) - 1), str(int(right) + 1)
    if question.asks == "side":
        return "left", "right", "middle"
    assert question.attribute is not None
    return [words[0] for words in ANSWER_WORDS[question.attribute].values()]


def _confidence(rng: random.Random, *, sure: bool) -> str:
    return rng.choices(("yes", "maybe", "no"), (88, 11, 1) if sure else (45, 45, 10))[0]


def write_vqa(folder: Path, chosen: Iterable[DemoImage]) -> None:
    """Writes the questions of all parts, and the annotations of those that are not hidden, into ``folder``."""
    by_split: dict[str, list[Asked]] = {}
    for asked in asked_about(chosen):
        by_split.setdefault(asked.image.split, []).append(asked)
    for part, splits in PARTS.items():
        rows = [asked for split in splits for asked in by_split.get(split, [])]
        _write(folder / f"v2_OpenEnded_mscoco_{part}_questions.json", part, "questions", map(_question, rows))
        if part not in HIDDEN:
            _write(folder / f"v2_mscoco_{part}_annotations.json", part, "annotations", map(_annotation, rows))


def _question(asked: Asked) -> dict[str, Any]:
    return {"image_id": asked.image.number, "question": asked.text, "question_id": asked.question_id}


def _annotation(asked: Asked) -> dict[str, Any]:
    answers = ten_answers(asked)
    ((most_common, _),) = Counter(record["answer"] for record in answers).most_common(1)
    return {
        "question_type": asked.question_type,
        "multiple_choice_answer": most_common,
        "answers": answers,
        "image_id": asked.image.number,
        "answer_type": asked.answer_type,
        "question_id": asked.question_id,
    }


def _write(path: Path, part: str, key: str, rows: Iterable[dict[str, Any]]) -> None:
    """ROSITA's minival files keep the header of the files that they were cut from."""
    subset = part.replace("minival", "val")
    path.write_text(json.dumps({**_HEADER, "data_subtype": subset, key: list(rows)}), encoding="utf-8")
