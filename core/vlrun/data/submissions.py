"""Checking a file before an evaluation server refuses it: the ids it must hold, and which split they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlrun.data.annotations import AnnotationFile
from vlrun.errors import DataError, first_few
from vlrun.files import read_json
from vlrun.plugins.entries import SubmissionFormat

SHOWN_IDS = 5
SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class SubmissionCheck:
    """The result of checking a file.

    Attributes:
        path: the file.
        rows: how many predictions it has.
        format: name of the submission format.
        split: whose ids the file was compared with.
        problems: why a server would refuse it; empty if it would not.
    """

    path: Path
    format: str
    rows: int
    split: str
    problems: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """Whether a server would accept the file."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """All of it, for ``--json``."""
        return {**asdict(self), "path": str(self.path), "is_right": self.is_right}


def check_submission(
    path: Path, wanted: SubmissionFormat, annotations: Path | None, questions: Path | None = None
) -> SubmissionCheck:
    """Compares a file with the ids of its split.

    Args:
        annotations: folder with the dataset's JSON-lines files; also tells which other split the file may be of.
        questions: an official list of questions, as downloaded, to compare with instead.

    Raises:
        DataError: the file cannot be read at all, or there is nothing to compare it with.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    expected = _expected(wanted, annotations, questions)
    rows = wanted.read(path)
    split = min(expected, key=lambda name: len(expected[name] ^ set(rows.ids)))  # the first of equals
    problems = [
        *first_few(rows.problems, SHOWN_PROBLEMS),
        *_id_problems(rows.ids, expected[split], split),
        *_size_problems(wanted, split, len(expected[split])),
    ]
    if problems and annotations is not None and (other := _other_split(rows.ids, annotations, set(expected))):
        problems.append(f"its ids are those of split '{other}': a file of the wrong split?")
    return SubmissionCheck(path, wanted.name, len(rows.ids), split, tuple(problems))


def read_json_list(path: Path) -> list[Any]:
    """The list in a JSON file; for readers of submission files.

    Raises:
        DataError: it is not JSON, or not a list; says where it was cut off.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a JSON list, found {type(content).__name__}")
    return content


def split_ids(path: Path) -> Iterator[str]:
    """The ids of a split file, in order."""
    return (str(record["id"]) for record in AnnotationFile(path))


def _expected(wanted: SubmissionFormat, annotations: Path | None, questions: Path | None) -> Mapping[str, set[str]]:
    """Split -> its ids, for the splits that the file may be of."""
    if questions is not None:
        return {questions.name: set(wanted.official_ids(questions))}
    files = [annotations / f"{split}.jsonl" for split in wanted.splits] if annotations is not None else []
    expected = {file.stem: set(split_ids(file)) for file in files if file.is_file()}
    if not expected:
        places = " or ".join(map(str, files)) or "no annotations folder"
        raise DataError(
            f"the ids for {wanted.name} should be in {places}, but there is nothing. Build the annotations "
            f"(runner data build {wanted.dataset} ...), name their folder with --annotations, or give the official "
            "list of questions with --questions"
        )
    return expected


def _id_problems(ids: list[str], expected: set[str], split: str) -> Iterator[str]:
    counts = Counter(ids)
    missing = sorted(expected - counts.keys())
    extra = [name for name in counts if name not in expected]
    repeated = [name for name, count in counts.items() if count > 1]
    for names, what in (
        (missing, f"of the {len(expected):,} ids of '{split}' are missing"),
        (extra, f"ids are not of '{split}'"),
        (repeated, "ids are repeated"),
    ):
        if names:
            yield f"{len(names):,} {what}: {', '.join(first_few(names, SHOWN_IDS))}"


def _size_problems(wanted: SubmissionFormat, split: str, size: int) -> Iterator[str]:
    """Says so if the ids that were compared are not as many as the server expects."""
    known = [wanted.sizes.get(name) for name in ([split] if split in wanted.splits else wanted.splits)]
    official = [number for number in known if number is not None]
    if len(official) == len(known) and size not in official:
        numbers = " or ".join(f"{number:,}" for number in official)
        yield (
            f"it was compared with the {size:,} ids of '{split}', the server expects {numbers}: build the annotations "
            "from the whole official files, or give the official list with --questions"
        )


def _other_split(ids: Iterable[str], annotations: Path, compared: set[str]) -> str | None:
    """The other split of the dataset that has exactly these ids; None if there is none."""
    distinct = set(ids)
    for file in sorted(annotations.glob("*.jsonl")):
        if file.stem not in compared and distinct and set(split_ids(file)) == distinct:
            return file.stem
    return None
