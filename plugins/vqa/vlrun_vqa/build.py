"""What all builders of VQA v2 share: checked records, the parts of val, the answer vocabulary, and the report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlrun import BuildReport, DataError, first_few
from vlrun.blocks.answers import ANSWERS_FILE, frequent_answers, read_answers, write_answers
from vlrun.data.annotations import field_problems, size_remarks, write_annotations
from vlrun_vqa.questions import Questions
from vlrun_vqa.records import VqaQuestion
from vlrun_vqa.sources import HIDDEN_SPLITS, SPLIT_SIZES

MIN_QUESTIONS = 9  # an answer of the vocabulary is the most common one of at least so many questions
_COMPLETE = 0.9  # a split with this share of its published questions is probably meant to be the whole one


@dataclass(frozen=True)
class Vocabulary:
    """The answers to write, none where there is nothing to make them from, and a remark on their origin."""

    answers: Sequence[str]
    remark: str


def write_questions(
    splits: dict[str, Questions], vocabulary: Vocabulary, output: Path, remarks: Iterable[str] = ()
) -> BuildReport:
    """Writes a file per split and ``answers.json``. A missing ``nominival`` is made from val and minival.

    Raises:
        DataError: there is nothing to write, or it cannot be written.
    """
    report = [*remarks, *_with_nominival(splits)]
    splits = {split: questions for split, questions in splits.items() if questions}
    if not splits:
        raise DataError("the source holds no questions")
    counts: dict[str, int] = {}
    hidden: Counter[str] = Counter()
    for split, questions in splits.items():
        questions.rest()
        records = _counting_hidden(questions.values(), split, hidden)
        counts[split] = write_annotations(output / f"{split}.jsonl", records, VqaQuestion, len(questions))
    if vocabulary.answers:
        write_answers(output / ANSWERS_FILE, vocabulary.answers)
    report += [vocabulary.remark, *_hidden_remarks(hidden), *_size_remarks(counts)]
    return BuildReport(counts, tuple(report))


def add_question(
    questions: Questions, content: Mapping[str, Any], place: str, problems: list[str], names: Mapping[str, str]
) -> VqaQuestion | None:
    """Checks a record and adds it, or notes what is wrong and returns None.

    Args:
        names: our field -> what the source calls it, for the messages.
    """
    try:
        record = VqaQuestion.model_validate(content)
    except ValidationError as error:
        for problem in field_problems(error):
            field = re.match(r"\w*", problem)[0]  # type: ignore[index]
            problems.append(f"{place}: {names.get(field, field)}{problem[len(field) :]}")
        return None
    if record.id in questions:
        problems.append(f"{place}: question {record.id} occurs twice")
    questions.add(record)
    return record


def published_vocabulary(folders: Iterable[Path], names: Sequence[str]) -> Vocabulary | None:
    """Reads the first of the files ``names`` that is in one of ``folders``; answers keep its order."""
    for path in (folder / name for folder in folders for name in names):
        if path.is_file():
            answers = read_answers(path).answers
            return Vocabulary(answers, f"{ANSWERS_FILE}: the {len(answers):,} answers of {path}, in their order")
    return None


def counted_vocabulary(counts: Mapping[str, Counter[str]]) -> Vocabulary:
    """Chooses the answers that are the most common one of enough questions of train and val, the most frequent first.

    This is the rule of ``tools/compute_softscore.py`` in github.com/hengyuan-hu/bottom-up-attention-vqa. The published
    vocabularies are in other orders.

    Args:
        counts: split -> for how many questions an answer, as ``vocabulary_spelling`` has it, is the most common one.
    """
    if "train" not in counts:
        remark = f"no {ANSWERS_FILE} was written: it is made from the answers of train, which is missing"
        return Vocabulary((), remark)
    used = [split for split in ("train", "val") if split in counts]
    total = sum((counts[split] for split in used), Counter())
    answers = frequent_answers(total, MIN_QUESTIONS)
    covered = sum(total[answer] for answer in answers)
    rule = f"of at least {MIN_QUESTIONS} of the {total.total():,} questions of {' and '.join(used)}"
    if not answers:
        return Vocabulary((), f"no {ANSWERS_FILE} was written: no answer is the most common one {rule}")
    remark = (
        f"{ANSWERS_FILE}: {len(answers):,} answers that are, normalised, the most common one {rule}; they cover "
        f"{covered:,} of the questions. Heads of published checkpoints need the vocabulary they were trained with"
    )
    return Vocabulary(answers, remark)


def raise_any(problems: Sequence[str]) -> None:
    """Raises a ``DataError`` with the first few of ``problems``, if there are any."""
    if problems:
        raise DataError(first_few(problems))


def _with_nominival(splits: dict[str, Questions]) -> list[str]:
    """Adds ``nominival``, if it can be made, and says what val and minival have in common."""
    if "val" not in splits or "minival" not in splits:
        return []
    val, minival = splits["val"], splits["minival"]
    shared = sum(name in minival for name in val)
    if not shared:
        return []
    remark = (
        f"split 'val' holds {shared:,} of the {len(minival):,} questions of 'minival': a score on "
        "minival is not held out where val was trained on"
    )
    if "nominival" in splits:
        return [remark]
    splits["nominival"] = val.only(name for name in val if name not in minival)
    return [f"{remark}; 'nominival' is val without them"]


def _counting_hidden(records: Iterable[VqaQuestion], split: str, hidden: Counter[str]) -> Iterator[VqaQuestion]:
    for record in records:
        hidden[split] += record.answers is None and record.scores is None
        yield record


def _hidden_remarks(hidden: Mapping[str, int]) -> list[str]:
    return [
        f"split '{split}': {count:,} questions have no answer: they are neither learned from nor scored"
        for split, count in hidden.items()
        if count and split not in HIDDEN_SPLITS
    ]


def _size_remarks(counts: Mapping[str, int]) -> list[str]:
    """Differences to the published sizes, if this looks like the whole dataset and not like a sample of it."""
    is_whole = any(counts.get(split, 0) >= _COMPLETE * published for split, published in SPLIT_SIZES.items())
    sizes = {split: {"questions": count} for split, count in counts.items() if is_whole or split not in SPLIT_SIZES}
    return size_remarks(sizes, {split: {"questions": published} for split, published in SPLIT_SIZES.items()})
