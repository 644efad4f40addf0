"""The official questions and annotations of VQA v2 -> one JSON-lines file per split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlrun import BuildReport, DataError, first_few
from vlrun.data.annotations import field_problems
from vlrun.data.json_stream import items_of, value_under
from vlrun.files import read_json
from vlrun_vqa.build import (
    add_question,
    counted_vocabulary,
    published_vocabulary,
    raise_any,
    write_questions,
)
from vlrun_vqa.normalisation import vocabulary_spelling
from vlrun_vqa.questions import Questions
from vlrun_vqa.sources import (
    LXMERT_ANSWERS,
    OBTAIN,
    OFFICIAL_NAME,
    OFFICIAL_SPLITS,
    ROSITA_ANSWERS,
    image_id,
    image_set,
)

Row = TypeVar("Row", bound=BaseModel)

_NAMES = {"id": "question_id", "text": "question", "image": "image_id"}
_EXPECTED = "an object with a list of {}, as in the official files"
_LXMERT_MINIVAL = "minival.json"


class _Question(BaseModel):
    question_id: int
    image_id: int
    question: str


class _Answer(BaseModel):
    """One person's answer. Whatever else the record holds says who that was."""

    model_config = ConfigDict(extra="allow")

    answer: str
    answer_id: int | None = None


class _Annotation(BaseModel):
    question_id: int
    image_id: int
    answers: list[_Answer] = Field(min_length=1)
    answer_type: str | None = None
    question_type: str | None = None
    multiple_choice_answer: str | None = None


@dataclass(frozen=True)
class _Part:
    """The files of one part of the dataset, such as ``val2014``."""

    subset: str
    questions: Path
    annotations: Path | None

    @property
    def split(self) -> str:
        return OFFICIAL_SPLITS[self.subset]


def build_official(source: Path, output: Path) -> BuildReport:
    """Joins questions with annotations by question id.

    Args:
        source: a folder with the files of some parts, or one questions file, whose annotations lie beside it.

    Raises:
        DataError: every file or row that is missing, damaged, or does not fit the others.
    """
    problems: list[str] = []
    parts = _parts(source)
    splits: dict[str, Questions] = {}
    counts: dict[str, Counter[str]] = {}
    for part in parts:
        questions = _read_questions(part, output, problems)
        if part.annotations is not None:
            questions, counts[part.split] = _with_answers(questions, part, output, problems)
        questions.rest()
        splits[part.split] = questions
    folder = source if source.is_dir() else source.parent
    if "val" in splits:
        _take_minival_from_val(splits, folder, answered="minival" in counts, problems=problems)
    raise_any(problems)
    vocabulary = published_vocabulary([folder], LXMERT_ANSWERS + ROSITA_ANSWERS) or counted_vocabulary(counts)
    return write_questions(splits, vocabulary, output)


def _parts(source: Path) -> list[_Part]:
    if source.suffix == ".zip":
        raise DataError(f"{source}: unpack the archive first and give the folder")
    if source.is_file():
        match = OFFICIAL_NAME.fullmatch(source.name)
        if match is None or match["asked"] is None:
            raise DataError(f"{source}: is not named like a questions file of VQA v2. {OBTAIN}")
        return [_Part(match["asked"], source, _files(source.parent, "answered", match["asked"]).get(match["extra"]))]

    problems: list[str] = []
    parts = []
    for subset, split in OFFICIAL_SPLITS.items():
        asked, answered = _files(source, "asked", subset), _files(source, "answered", subset)
        if None not in asked and len(asked) > 1:
            problems.append(
                f"{source}: several files hold questions of {subset}: "
                f"{', '.join(path.name for path in asked.values())}; give one of them instead of the folder"
            )
        elif asked:
            extra = None if None in asked else next(iter(asked))
            parts.append(_Part(subset, asked[extra], answered.get(extra)))
            if parts[-1].annotations is None and split in ("train", "val"):
                problems.append(f"{asked[extra]}: there are no annotations beside it. {OBTAIN}")
        elif answered:
            problems.append(f"{next(iter(answered.values()))}: there are no questions beside it. {OBTAIN}")
    raise_any(problems)
    if not parts:
        names = sorted(path.name for path in source.iterdir()) if source.is_dir() else []
        raise DataError(
            f"{source}: expected files such as v2_OpenEnded_mscoco_val2014_questions.json and "
            f"v2_mscoco_val2014_annotations.json (found: {', '.join(first_few(names, 10)) or 'nothing'}). {OBTAIN}"
        )
    return parts


def _files(folder: Path, kind: str, subset: str) -> dict[str | None, Path]:
    """Files of one kind and part, by what their names add to the official name; None where that is nothing.

    A file is preferred to its compressed twin.
    """
    files: dict[str | None, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = OFFICIAL_NAME.fullmatch(path.name)
        if match is not None and match[kind] == subset:
            files.setdefault(match["extra"], path)
    return files


def _read_questions(part: _Part, output: Path, problems: list[str]) -> Questions:
    """The questions of a part, without answers."""
    expected = _EXPECTED.format("questions")
    subset = value_under(part.questions, "data_subtype", expected)
    if subset is not None and (not isinstance(subset, str) or image_set(subset) != image_set(part.subset)):
        raise DataError(f"{part.questions}: is named as {part.subset}, but its data_subtype is {subset!r}")
    questions = Questions(output)
    rows = items_of(part.questions, "questions", expected)
    for place, _, row in _checked(_Question, rows, part.questions, problems):
        if row is not None:
            content = {"id": str(row.question_id), "text": row.question, "image": image_id(part.subset, row.image_id)}
            add_question(questions, content, place, problems, _NAMES)
    return questions


def _with_answers(
    questions: Questions, part: _Part, output: Path, problems: list[str]
) -> tuple[Questions, Counter[str]]:
    """The questions with their answers, and for how many questions an answer is the most common one."""
    path = part.annotations
    assert path is not None
    counts: Counter[str] = Counter()
    answered = Questions(output)
    damaged: set[str] = set()
    for place, name, row in _checked(
        _Annotation, items_of(path, "annotations", _EXPECTED.format("annotations")), path, problems
    ):
        if row is None:
            damaged.add(name)
            continue
        question = questions.get(name)
        if question is None:
            problems.append(f"{place}: no such question in {part.questions.name}")
            continue
        if name in answered:
            problems.append(f"{place}: occurs twice")
        if not question.image.endswith(f"_{row.image_id:012d}"):
            problems.append(f"{place}: image_id is {row.image_id}, but the question is about {question.image}")
        answers = tuple(answer.answer for answer in row.answers)
        answered.add(
            question.model_copy(
                update={
                    "answers": answers,
                    "annotators": _annotators(row.answers),
                    "answer_type": row.answer_type,
                    "question_type": row.question_type,
                }
            )
        )
        main = row.multiple_choice_answer
        counts[vocabulary_spelling(Counter(answers).most_common(1)[0][0] if main is None else main)] += 1
    problems += [
        f"{part.questions}: question {name}: is not in {path.name}"
        for name in questions
        if name not in answered and name not in damaged
    ]
    return answered.only(questions), counts


def _annotators(answers: Sequence[_Answer]) -> tuple[int, ...] | None:
    """Numbers that differ where anything but the answer differs; None if that is so for all of them."""
    ids = [answer.answer_id for answer in answers]
    if None not in ids and len(set(ids)) == len(ids):
        return None
    people = [repr((answer.answer_id, sorted((answer.model_extra or {}).items()))) for answer in answers]
    numbers = {person: number for number, person in enumerate(dict.fromkeys(people))}
    return None if len(numbers) == len(people) else tuple(numbers[person] for person in people)


def _take_minival_from_val(splits: dict[str, Questions], folder: Path, *, answered: bool, problems: list[str]) -> None:
    """Makes minival from val where ROSITA's questions file or LXMERT's annotations only list its questions."""
    if answered:
        return
    path = folder / _LXMERT_MINIVAL
    chosen: Sequence[str] = list(splits.get("minival", ()))
    if not chosen and path.is_file():
        rows = read_json(path)
        if not (isinstance(rows, list) and all(isinstance(row, Mapping) and "question_id" in row for row in rows)):
            raise DataError(f"{path}: expected LXMERT's minival, a list of objects with question_id")
        chosen = [str(row["question_id"]) for row in rows]
    val = splits["val"]
    problems += [f"{folder}: question {name} of minival is not one of val" for name in chosen if name not in val]
    if chosen:
        splits["minival"] = val.only(chosen)


def _checked(
    model: type[Row], rows: Iterable[Any], path: Path, problems: list[str]
) -> Iterator[tuple[str, str, Row | None]]:
    """(place, id, row) of all rows; None for one that is not valid."""
    for index, row in enumerate(rows):
        name = str(row["question_id"]) if isinstance(row, Mapping) and "question_id" in row else ""
        place = f"{path}: question {name}" if name else f"{path}: row {index}"
        try:
            yield place, name, model.model_validate(row)
        except ValidationError as error:
            problems += [f"{place}: {problem}" for problem in field_problems(error)]
            yield place, name, None
