"""The official question files, or LXMERT's, -> one JSON-lines file per split, and the answer vocabulary.

Everything is read and written question by question, so the 14 million of train_all need little memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from vlrun import BuildReport, DataError, canonical_image_id, first_few
from vlrun.blocks.answers import ANSWERS_FILE, AnswerVocabulary, frequent_answers, read_answers, write_answers
from vlrun.data.annotations import field_problems, size_remarks, write_annotations
from vlrun.data.json_stream import list_items, object_items
from vlrun_gqa.records import GqaQuestion
from vlrun_gqa.sources import (
    CHOICES_FILES,
    LXMERT_FILES,
    LXMERT_OBTAIN,
    LXMERT_VOCABULARY,
    NUM_TRAIN_ALL_FILES,
    OFFICIAL_FILES,
    OFFICIAL_OBTAIN,
    PUBLISHED_SIZES,
)

LEADING_ZEROS = "ids are text: 01827492 and 1827492 are different questions"

_COMPLETE = 0.9  # a split with this share of the published questions is probably meant to be the whole one
_ENOUGH_PROBLEMS = 1000  # a file that is wrong on every line need not be read to its end
_NOT_A_STEP = ("exist", "query: name", "choose name")  # metrics.md, section 2: a plain substring test

Choices = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
Rows = Iterator[tuple[str, str, Any]]  # place, question id where the content does not hold it, content


class _Operation(BaseModel):
    operation: str
    argument: str


class _Types(BaseModel):
    structural: str | None = None
    semantic: str | None = None
    detailed: str | None = None


class _Groups(BaseModel):
    everywhere: str | None = Field(None, alias="global")  # global is a keyword


class _OfficialQuestion(BaseModel):
    """A question of the official files; those of the test splits have neither answer nor types."""

    question: str
    imageId: str  # noqa: N815
    isBalanced: bool | None = None  # noqa: N815
    answer: str | None = None
    semantic: list[_Operation] | None = None
    entailed: list[str] | None = None
    groups: _Groups | None = None
    types: _Types | None = None


class _LxmertQuestion(BaseModel):
    question_id: str
    img_id: str
    sent: str
    label: dict[str, float] | None = None

    @field_validator("question_id", mode="before")
    @classmethod
    def _id_is_text(cls, value: Any) -> Any:
        if isinstance(value, int):
            raise ValueError(f"should be text, not a number; {LEADING_ZEROS}")
        return value

    @field_validator("label")
    @classmethod
    def _label_is_one_answer(cls, label: dict[str, float] | None) -> dict[str, float] | None:
        if label is not None and list(label.values()) != [1.0]:
            raise ValueError("should be one answer with score 1, as all questions of GQA have")
        return label


@dataclass
class _Tally:
    """What was seen of a split while it was written."""

    answers: Counter[str] = field(default_factory=Counter)
    num_questions: int = 0
    num_without_choices: int = 0

    def add(self, record: GqaQuestion, has_choices: bool) -> None:
        self.num_questions += 1
        if record.answer is not None:
            self.answers[record.answer] += 1
        if has_choices and record.is_balanced and record.valid is None and "Common" not in (record.detailed or ""):
            self.num_without_choices += 1


def build_official(folder: Path, output: Path) -> BuildReport:
    """Translates the official question files that are in ``folder``; those of all questions give ``<split>_all``.

    Raises:
        DataError: no such file is there, or files are damaged or have invalid rows; all problems at once.
    """
    files = _files_of_splits(folder, OFFICIAL_FILES, OFFICIAL_OBTAIN)
    remarks = _missing_chunks(files["train_all"]) if "train_all" in files else []

    def write(split: str, tally: _Tally) -> int:
        choices = _read_choices(_source_files(folder, CHOICES_FILES.get(split)))
        rows = chain.from_iterable(_official_rows(path) for path in files[split])
        records = _records(rows, lambda name, row: _official_record(name, row, choices), tally, bool(choices))
        return write_annotations(output / f"{split}.jsonl", records, GqaQuestion)

    return _build(folder, output, list(files), write, remarks)


def build_lxmert(folder: Path, output: Path) -> BuildReport:
    """Translates LXMERT's redistribution of the balanced questions; otherwise like ``build_official``."""
    files = _files_of_splits(folder, LXMERT_FILES, LXMERT_OBTAIN)

    def write(split: str, tally: _Tally) -> int:
        rows = chain.from_iterable(_lxmert_rows(path) for path in files[split])
        records = _records(rows, lambda _, row: _lxmert_record(row), tally, has_choices=False)
        return write_annotations(output / f"{split}.jsonl", records, GqaQuestion)

    remark = "these files name no question types, so accuracy is the only score (all their questions are balanced)"
    return _build(folder, output, list(files), write, [remark])


def _build(
    folder: Path,
    output: Path,
    splits: Sequence[str],
    write: Callable[[str, _Tally], int],
    remarks: Sequence[str],
) -> BuildReport:
    tallies = {split: _Tally() for split in splits}
    counts: dict[str, int] = {}
    problems: list[str] = []
    for split, tally in tallies.items():
        try:
            counts[split] = write(split, tally)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    notes = [*remarks, *_split_remarks(tallies), *_write_vocabulary(folder, output, tallies)]
    return BuildReport(counts, tuple(notes))


# --- files ---


def _files_of_splits(folder: Path, stems: Mapping[str, str], obtain: str) -> dict[str, list[Path]]:
    if folder.suffix == ".zip":
        raise DataError(f"{folder}: unpack the archive first and give the folder")
    files = {split: paths for split, stem in stems.items() if (paths := _source_files(folder, stem))}
    if not files:
        names = ", ".join(first_few(sorted(path.name for path in folder.iterdir()), 10)) if folder.is_dir() else ""
        wanted = ", ".join(f"{stem}.json" for stem in stems.values())
        raise DataError(f"{folder}: expected some of {wanted} (found: {names or 'nothing'}). {obtain}")
    return files


def _source_files(folder: Path, stem: str | None) -> list[Path]:
    """``stem.json``, or the numbered files in the folder ``stem``; a sample may be ``lxmert_stem.subset.json``."""
    if stem is None:
        return []
    candidates = [folder / f"{prefix}{stem}{end}.json" for prefix in ("", "lxmert_") for end in ("", ".subset")]
    sources = [[path] for path in candidates if path.is_file()]
    if chunks := sorted((folder / stem).glob(f"{stem}_*.json"), key=_chunk_number):
        sources.append(chunks)
    if len(sources) > 1:
        names = " and ".join(str(paths[0]) for paths in sources)
        raise DataError(f"{names} are for the same split; leave one in the folder")
    return sources[0] if sources else []


def _chunk_number(path: Path) -> int:
    number = re.search(r"_(\d+)$", path.stem)
    return int(number.group(1)) if number else -1


def _missing_chunks(paths: Sequence[Path]) -> list[str]:
    missing = sorted(set(range(NUM_TRAIN_ALL_FILES)) - set(map(_chunk_number, paths)))
    if not missing or any(_chunk_number(path) < 0 for path in paths):
        return []
    return [f"split 'train_all': files {', '.join(map(str, missing))} of {NUM_TRAIN_ALL_FILES} are not there"]


def _read_choices(paths: Sequence[Path]) -> Choices:
    """Valid and plausible answers by question. Most lists recur, so equal ones are kept once."""
    choices: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    kept: dict[tuple[str, ...], tuple[str, ...]] = {}

    def answers(found: Any) -> tuple[str, ...]:
        if not isinstance(found, list):
            raise TypeError
        given = tuple(found)
        if given not in kept:
            if not all(isinstance(answer, str) for answer in given):
                raise TypeError
            kept[given] = given
        return kept[given]

    for path in paths:
        for name, row in object_items(path, "an object from question ids to valid and plausible answers"):
            try:
                choices[name] = answers(row["valid"]), answers(row["plausible"])
            except (KeyError, TypeError):
                raise DataError(f"{path}: question '{name}': expected lists 'valid' and 'plausible' of texts") from None
    return choices


# --- rows ---


def _official_rows(path: Path) -> Rows:
    for name, row in object_items(path, "an object from question ids to questions"):
        yield f"{path}: question '{name}'", name, row


def _lxmert_rows(path: Path) -> Rows:
    for number, row in enumerate(list_items(path, "a list of questions")):
        name = row.get("question_id") if isinstance(row, dict) else None
        yield f"{path}: item {number} (question {name!r})", "", row


def _records(
    rows: Rows, translate: Callable[[str, Any], GqaQuestion], tally: _Tally, has_choices: bool
) -> Iterator[GqaQuestion]:
    """The rows as records.

    Raises:
        DataError: rows are invalid; raised after the last one, with the first few problems.
    """
    problems: list[str] = []
    for place, name, row in rows:
        try:
            record = translate(name, row)
        except ValidationError as error:
            problems += [f"{place}: {problem}" for problem in field_problems(error)]
            if len(problems) >= _ENOUGH_PROBLEMS:
                break
        else:
            tally.add(record, has_choices)
            yield record
    if problems:
        raise DataError(first_few(problems))


def _official_record(name: str, row: Any, choices: Choices) -> GqaQuestion:
    question = _OfficialQuestion.model_validate(row)
    # Scores need the choices of balanced questions only; those of all 2 million would fill gigabytes.
    valid, plausible = choices.get(name, (None, None)) if question.isBalanced else (None, None)
    types = question.types or _Types()
    return GqaQuestion(
        id=name,
        text=question.question,
        image=canonical_image_id(question.imageId),
        answer=question.answer,
        is_balanced=question.isBalanced,
        structural=types.structural,
        semantic=types.semantic,
        detailed=types.detailed,
        group=question.groups.everywhere if question.groups else None,
        steps=None if question.semantic is None else num_steps(question.semantic),
        entailed=tuple(other for other in question.entailed or () if other != name) or None,
        valid=valid,
        plausible=plausible,
    )


def _lxmert_record(row: Any) -> GqaQuestion:
    question = _LxmertQuestion.model_validate(row)
    return GqaQuestion(
        id=question.question_id,
        text=question.sent,
        image=canonical_image_id(question.img_id),
        answer=next(iter(question.label or ()), None),
    )


def num_steps(operations: Sequence[_Operation]) -> int:
    """Counts reasoning steps: operations that do more than ask for existence or name an object."""
    texts = [f"{step.operation}: {step.argument}" for step in operations]
    return sum(not any(sign in text for sign in _NOT_A_STEP) for text in texts)


# --- vocabulary and remarks ---


def _write_vocabulary(folder: Path, output: Path, tallies: Mapping[str, _Tally]) -> list[str]:
    """Writes ``answers.json``: the published list where ``folder`` has it, else all answers of the training splits."""
    if published := _source_files(folder, LXMERT_VOCABULARY):
        vocabulary = read_answers(published[0])
        origin = f"the {len(vocabulary):,} answers of {published[0].name}, in its order"
    else:
        end = "" if "train" in tallies else "_all"
        splits = [split for split in (f"train{end}", f"valid{end}") if split in tallies]
        counts = sum((tallies[split].answers for split in splits), Counter[str]())
        if f"train{end}" not in tallies or not counts:
            return [
                f"no {ANSWERS_FILE}, as there are no training questions to take answers from; set the task's option "
                f"`answers` to one, or add {LXMERT_VOCABULARY}.json to the folder"
            ]
        vocabulary = AnswerVocabulary(tuple(frequent_answers(counts, at_least=1)))
        origin = f"all {len(vocabulary):,} answers of {' and '.join(splits)}, the most frequent first (threshold: once)"
    write_answers(output / ANSWERS_FILE, vocabulary.answers)
    return [f"{ANSWERS_FILE}: {origin}", *_outside_remarks(tallies, vocabulary)]


def _outside_remarks(tallies: Mapping[str, _Tally], vocabulary: AnswerVocabulary) -> list[str]:
    outside = {
        split: sum(count for answer, count in tally.answers.items() if answer not in vocabulary)
        for split, tally in tallies.items()
    }
    return [
        f"split '{split}': {count:,} of {tallies[split].num_questions:,} questions have an answer outside the "
        "vocabulary; they can never be right"
        for split, count in outside.items()
        if count
    ]


def _split_remarks(tallies: Mapping[str, _Tally]) -> list[str]:
    remarks = []
    for split, tally in tallies.items():
        published = PUBLISHED_SIZES.get(split)
        if published and tally.num_questions >= _COMPLETE * published:
            remarks += size_remarks({split: {"questions": tally.num_questions}}, {split: {"questions": published}})
        if not tally.answers:
            remarks.append(f"split '{split}': answers are hidden; it can be predicted, and scored by the server only")
        if tally.num_without_choices:
            remarks.append(
                f"split '{split}': {tally.num_without_choices:,} balanced questions are not in the choices file, so "
                "validity and plausibility will not be scored"
            )
    return remarks
