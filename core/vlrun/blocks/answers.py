"""Answer vocabularies: which class means which answer (this module imports no torch).

The order of the answers is part of the meaning of a head's weights.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlrun.blocks.answering_config import ANSWERS_FILE
from vlrun.errors import DataError, first_few
from vlrun.files import read_json, write_text

_HASH_LENGTH = 12


@dataclass(frozen=True)
class AnswerVocabulary:
    """Different answers in the order of a head's classes."""

    answers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.answers)

    def __contains__(self, answer: object) -> bool:
        return answer in self._indices

    def index_of(self, answer: str) -> int | None:
        """The class of ``answer``, or None."""
        return self._indices.get(answer)

    @cached_property
    def hash(self) -> str:
        """Identifies the answers and their order."""
        return hashlib.sha256(json.dumps(self.answers).encode()).hexdigest()[:_HASH_LENGTH]

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {answer: index for index, answer in enumerate(self.answers)}


def read_answers(path: Path) -> AnswerVocabulary:
    """Reads a vocabulary from a JSON file in our layout or in a published one.

    Ours is a list of answers, as LXMERT's ``label2ans``. LXMERT's ``ans2label`` is an object from answers to indices,
    its ``all_ans`` a list of objects with ``ans``; ROSITA's is a list of two objects, from answers to indices and back.

    Raises:
        DataError: the file is missing, of no known layout, or its indices are not 0, 1, 2, ...
    """
    answers = _as_list(read_json(path))
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{path}: expected a list of answers, or an object from answers to indices 0, 1, 2, ...")
    if repeated := [answer for answer, count in Counter(answers).items() if count > 1]:
        raise DataError(
            f"{path}: answers that occur more than once: {', '.join(first_few(list(map(repr, repeated)), 5))}"
        )
    return AnswerVocabulary(tuple(answers))


def write_answers(path: Path, answers: Sequence[str]) -> None:
    """Writes a vocabulary, one answer a line."""
    write_text(path, json.dumps(list(answers), ensure_ascii=False, indent=0) + "\n")


def frequent_answers(counts: Mapping[str, int], at_least: int) -> list[str]:
    """The answers with a count of ``at_least`` or more, most frequent first, then in alphabetical order."""
    kept = [answer for answer, count in counts.items() if count >= at_least]
    return sorted(kept, key=lambda answer: (-counts[answer], answer))


def soft_score(count: int, num_answers: int) -> float:
    """The VQA accuracy of an answer that ``count`` of ``num_answers`` people gave, which is also both papers' target.

    It is the mean over people of min(1, c / 3), where c of the others gave the answer. With ten people, counts of
    0, 1, 2, 3, and 4 or more score 0, .3, .6, .9, 1. The answer of a single person scores 1.
    """
    if num_answers == 1:
        return float(count)
    left_out = count * min(1.0, (count - 1) / 3) if count else 0.0
    others = (num_answers - count) * min(1.0, count / 3)
    return round((left_out + others) / num_answers, 12)  # .9, not .8999999999999999


def _as_list(content: Any) -> list[Any]:
    if isinstance(content, list) and content and all(isinstance(item, Mapping) and "ans" in item for item in content):
        return [item["ans"] for item in content]
    if isinstance(content, list) and len(content) == 2 and all(isinstance(item, Mapping) for item in content):
        content = content[0]
    if isinstance(content, Mapping):
        if not all(type(index) is int for index in content.values()):
            return []
        ordered = sorted(content, key=content.__getitem__)
        return ordered if [content[answer] for answer in ordered] == list(range(len(ordered))) else []
    return content if isinstance(content, list) else []


__all__ = ["ANSWERS_FILE", "AnswerVocabulary", "frequent_answers", "read_answers", "soft_score", "write_answers"]
