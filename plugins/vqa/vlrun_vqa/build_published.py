"""The annotations that LXMERT and ROSITA publish -> one JSON-lines file per split."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrun import BuildReport, DataError, canonical_image_id
from vlrun.blocks.answers import ANSWERS_FILE, frequent_answers
from vlrun.data.json_stream import items_by_key, items_of, list_items
from vlrun_vqa.build import (
    Vocabulary,
    add_question,
    counted_vocabulary,
    published_vocabulary,
    raise_any,
    write_questions,
)
from vlrun_vqa.normalisation import vocabulary_spelling
from vlrun_vqa.questions import Questions
from vlrun_vqa.sources import LXMERT_ANSWERS, LXMERT_SPLITS, OFFICIAL_NAME, ROSITA_ANSWERS, ROSITA_FILE

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
    scored: Counter[str] = Counter()
    unanswerable: Counter[str] = Counter()
    for split, path in paths.items():
        questions = splits[split] = Questions(output)
        for index, row in enumerate(list_items(path, "a list of questions")):
            place = f"{path}, row {index}"
            if not _is_object(row, place, problems):
                continue
            record = add_question(questions, _translated(row, _LXMERT_NAMES), place, problems, _LXMERT_NAMES)
            if record is not None:
                scored.update(record.scores or ())
                unanswerable[split] += record.scores == {}
        questions.rest()
    raise_any(problems)
    vocabulary = published_vocabulary([folder], LXMERT_ANSWERS) or _scored_vocabulary(scored)
    return write_questions(splits, vocabulary, output, _lxmert_remarks(unanswerable))


def build_rosita(source: Path, output: Path) -> BuildReport:
    """Translates the annotations that ROSITA publishes: ``source`` is their JSON file, or a folder that holds it.

    They have no types of answers and questions; those are of the official annotations that lie beside the file.

    A question without ``label`` has no loss in ROSITA, so its answer counts as hidden here.

    Raises:
        DataError: the file is missing or damaged, or records of it do not fit.
    """
    path = _rosita_path(source)
    folders = [path.parent, *list(path.parent.parents)[:2]]  # where the release keeps its vocabulary is not known
    types = _official_types(path.parent)
    problems: list[str] = []
    splits: dict[str, Questions] = {}
    labels: dict[str, Counter[str]] = {}
    numbers: Counter[str] = Counter()
    for split, row in items_by_key(path, "an object of lists, one list of questions per split"):
        place = f"{path}: split '{split}', record {numbers[split]}"
        numbers[split] += 1
        if split not in splits:
            for earlier in splits.values():
                earlier.rest()
            splits[split] = Questions(output)
        if not _is_object(row, place, problems):
            continue
        if row.get("text_set", _ROSITA_TEXT_SET) != _ROSITA_TEXT_SET:
            problems.append(f"{place}: text_set: expected '{_ROSITA_TEXT_SET}', it is {row['text_set']!r}")
        label = row.get("label")
        names = _ROSITA_NAMES if label else {ours: _ROSITA_NAMES[ours] for ours in ("id", "text", "image")}
        if label and "multi_label" not in row:
            problems.append(f"{place}: multi_label: field required")
        content = _translated(row, names)
        add_question(splits[split], {**content, **types.of(content)}, place, problems, _ROSITA_NAMES)
        if label:
            labels.setdefault(split, Counter())[str(label)] += 1
    raise_any(problems)
    counts = {split: _spelled(found) for split, found in labels.items()}
    vocabulary = published_vocabulary(folders, ROSITA_ANSWERS) or counted_vocabulary(counts)
    return write_questions(splits, vocabulary, output, types.remarks(path.parent))


@dataclass
class _OfficialTypes:
    """Types of answers and questions by question id, and the files that they are of."""

    files: list[Path]
    known: dict[str, tuple[int, str | None, str | None]]
    used: int = 0

    def of(self, content: Mapping[str, Any]) -> dict[str, str | None]:
        """The types of an answered question, if the official one of its id is about the same image."""
        found = self.known.get(str(content.get("id"))) if "answers" in content else None
        if found is None or not str(content.get("image")).endswith(f"_{found[0]:012d}"):
            return {}
        self.used += 1
        return {"answer_type": found[1], "question_type": found[2]}

    def remarks(self, folder: Path) -> list[str]:
        """Where the types come from, or what would be there if there were any."""
        if not self.files:
            return [
                f"no types of answers: ROSITA's file has none, and no v2_mscoco_*_annotations.json lies in {folder}; "
                "accuracy is scored over all questions alone"
            ]
        names = ", ".join(file.name for file in self.files)
        return [f"types of answers and questions: of {names}, for {self.used:,} questions"]


def _official_types(folder: Path) -> _OfficialTypes:
    """Reads the types from the official annotations in a folder.

    Raises:
        DataError: such a file is damaged.
    """
    matches = ((file, OFFICIAL_NAME.fullmatch(file.name)) for file in sorted(folder.iterdir()))
    files = [file for file, match in matches if match is not None and match["answered"]]
    known: dict[str, tuple[int, str | None, str | None]] = {}
    for file in files:
        for row in items_of(file, "annotations", "an object with a list of annotations, as in the official files"):
            if isinstance(row, Mapping) and isinstance(row.get("image_id"), int):
                answer, question = row.get("answer_type"), row.get("question_type")
                known[str(row.get("question_id"))] = (
                    row["image_id"],
                    sys.intern(answer) if isinstance(answer, str) else None,
                    sys.intern(question) if isinstance(question, str) else None,
                )
    return _OfficialTypes(files, known)


def _is_object(row: Any, place: str, problems: list[str]) -> bool:
    if not isinstance(row, Mapping):
        problems.append(f"{place}: expected an object, found {type(row).__name__}")
        return False
    return True


def _spelled(labels: Mapping[str, int]) -> Counter[str]:
    """The same counts by the spelling of the vocabulary."""
    counts: Counter[str] = Counter()
    for label, count in labels.items():
        counts[vocabulary_spelling(label)] += count
    return counts


def _translated(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Our fields, as far as the source has them."""
    content = {ours: row[theirs] for ours, theirs in names.items() if theirs in row}
    if isinstance(content.get("id"), int) and not isinstance(content["id"], bool):
        content["id"] = str(content["id"])
    if isinstance(content.get("image"), str):
        content["image"] = canonical_image_id(content["image"])
    return content


def _scored_vocabulary(counts: Counter[str]) -> Vocabulary:
    """All answers that have a score, the most frequent first: the authors' vocabulary has no others."""
    why = f"none of {', '.join(LXMERT_ANSWERS)} is there"
    if not counts:
        return Vocabulary((), f"no {ANSWERS_FILE} was written: {why}, and no answer has a score")
    remark = (
        f"{ANSWERS_FILE}: all {len(counts):,} answers that have a score, the most frequent first; {why}, so the "
        "authors' order, which the heads of their checkpoints need, is unknown"
    )
    return Vocabulary(frequent_answers(counts, 1), remark)


def _lxmert_remarks(unanswerable: Mapping[str, int]) -> list[str]:
    return [
        "these files hold soft scores and not the answers behind them: accuracy is looked up, as LXMERT reports it, "
        "and losses with KL divergence are impossible; `--from official` has the answers",
        *(
            f"split '{split}': {count:,} questions have no answer in the authors' vocabulary; every prediction scores 0"
            for split, count in unanswerable.items()
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
