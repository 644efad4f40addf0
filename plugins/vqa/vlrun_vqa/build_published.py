"""The annotations that LXMERT and ROSITA publish -> one JSON-lines file per split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrun import BuildReport, DataError, canonical_image_id
from vlrun.blocks.answers import ANSWERS_FILE, frequent_answers
from vlrun.files import read_json
from vlrun_vqa.build import (
    Questions,
    Vocabulary,
    add_question,
    counted_vocabulary,
    published_vocabulary,
    raise_any,
    write_questions,
)
from vlrun_vqa.normalisation import vocabulary_spelling
from vlrun_vqa.sources import LXMERT_ANSWERS, LXMERT_SPLITS, ROSITA_ANSWERS, ROSITA_FILE

_LXMERT_NAMES = {
    "id": "question_id",
    "text": "sent",
    "image": "img_id",
    "scores": "label",
    "answer_type": "answer_type",
    "question_type": "question_type",
}
_ROSITA_NAMES = {"id": "text_id", "text": "text", "image": "img_file", "answers": "multi_label"}
_ROSITA_TEXT_SET = "vqa"


def build_lxmert(folder: Path, output: Path) -> BuildReport:
    """Translates LXMERT's ``train.json``, ``nominival.json``, ``minival.json`` and ``test.json``, or some of them.

    They hold soft scores of answers in the authors' vocabulary, not the answers that people gave.

    Raises:
        DataError: no such file is there, or rows of it do not fit.
    """
    paths = {split: folder / f"{split}.json" for split in LXMERT_SPLITS}
    paths = {split: path for split, path in paths.items() if path.is_file()}
    if not paths:
        raise DataError(f"{folder}: expected a folder with LXMERT's {', '.join(f'{s}.json' for s in LXMERT_SPLITS)}")
    problems: list[str] = []
    splits: dict[str, Questions] = {}
    for split, path in paths.items():
        questions = splits.setdefault(split, {})
        for place, row in _rows(read_json(path), str(path), "row", problems):
            add_question(questions, _translated(row, _LXMERT_NAMES), place, problems, _LXMERT_NAMES)
    raise_any(problems)
    vocabulary = published_vocabulary([folder], LXMERT_ANSWERS) or _scored_vocabulary(splits)
    return write_questions(splits, vocabulary, output, _lxmert_remarks(splits))


def build_rosita(source: Path, output: Path) -> BuildReport:
    """Translates the annotations that ROSITA publishes: ``source`` is their JSON file, or a folder that holds it.

    A question without ``label`` has no loss in ROSITA, so its answer counts as hidden here.

    Raises:
        DataError: the file is missing or damaged, or records of it do not fit.
    """
    path = _rosita_path(source)
    content = read_json(path)
    if not (isinstance(content, Mapping) and all(isinstance(rows, list) for rows in content.values())):
        raise DataError(f"{path}: expected an object of lists, one list of questions per split")
    problems: list[str] = []
    splits: dict[str, Questions] = {}
    counts: dict[str, Counter[str]] = {}
    for split, rows in content.items():
        questions = splits.setdefault(split, {})
        labels: list[str] = []
        for place, row in _rows(rows, f"{path}: split '{split}'", "record", problems):
            if row.get("text_set", _ROSITA_TEXT_SET) != _ROSITA_TEXT_SET:
                problems.append(f"{place}: text_set: expected '{_ROSITA_TEXT_SET}', it is {row['text_set']!r}")
            label = row.get("label")
            names = _ROSITA_NAMES if label else {ours: _ROSITA_NAMES[ours] for ours in ("id", "text", "image")}
            if label and "multi_label" not in row:
                problems.append(f"{place}: multi_label: field required")
            add_question(questions, _translated(row, names), place, problems, _ROSITA_NAMES)
            labels += [str(label)] if label else []
        if labels:
            counts[split] = Counter(map(vocabulary_spelling, labels))
    raise_any(problems)
    folders = [path.parent, *list(path.parent.parents)[:2]]  # where the release keeps its vocabulary is not known
    vocabulary = published_vocabulary(folders, ROSITA_ANSWERS) or counted_vocabulary(counts)
    return write_questions(splits, vocabulary, output)


def _rows(rows: Any, place: str, what: str, problems: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows that are objects, each with its place."""
    if not isinstance(rows, list):
        raise DataError(f"{place}: expected a list of questions, found {type(rows).__name__}")
    places = []
    for index, row in enumerate(rows):
        if isinstance(row, Mapping):
            places.append((f"{place}, {what} {index}", row))
        else:
            problems.append(f"{place}, {what} {index}: expected an object, found {type(row).__name__}")
    return places


def _translated(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Our fields, as far as the source has them."""
    content = {ours: row[theirs] for ours, theirs in names.items() if theirs in row}
    if isinstance(content.get("id"), int) and not isinstance(content["id"], bool):
        content["id"] = str(content["id"])
    if isinstance(content.get("image"), str):
        content["image"] = canonical_image_id(content["image"])
    return content


def _scored_vocabulary(splits: Mapping[str, Questions]) -> Vocabulary:
    """All answers that have a score, the most frequent first: the authors' vocabulary has no others."""
    counts = Counter(
        answer for questions in splits.values() for record in questions.values() for answer in record.scores or ()
    )
    why = f"none of {', '.join(LXMERT_ANSWERS)} is there"
    if not counts:
        return Vocabulary((), f"no {ANSWERS_FILE} was written: {why}, and no answer has a score")
    remark = (
        f"{ANSWERS_FILE}: all {len(counts):,} answers that have a score, the most frequent first; {why}, so the "
        "authors' order, which the heads of their checkpoints need, is unknown"
    )
    return Vocabulary(frequent_answers(counts, 1), remark)


def _lxmert_remarks(splits: Mapping[str, Questions]) -> list[str]:
    counts = {split: sum(record.scores == {} for record in questions.values()) for split, questions in splits.items()}
    return [
        "these files hold soft scores and not the answers behind them: accuracy is looked up, as LXMERT reports it, "
        "and losses with KL divergence are impossible; `--from official` has the answers",
        *(
            f"split '{split}': {count:,} questions have no answer in the authors' vocabulary; every prediction scores 0"
            for split, count in counts.items()
            if count
        ),
    ]


def _rosita_path(source: Path) -> Path:
    """The annotation file, in its own folder or in ROSITA's ``annotations``; its suffix may be missing."""
    if source.is_file():
        return source
    names = (ROSITA_FILE, ROSITA_FILE.removesuffix(".json"))  # the last revision of ROSITA's code opens it without
    for candidate in (folder / name for folder in (source, source / "vqa-vqav2") for name in names):
        if candidate.is_file():
            return candidate
    raise DataError(f"{source}: expected the file {ROSITA_FILE}, or a folder with it")
