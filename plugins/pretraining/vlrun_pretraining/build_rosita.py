"""ROSITA's own pre-training files -> one JSON-lines file per set, and the names of detector classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlrun import BuildReport, DataError, canonical_image_id, first_few
from vlrun.blocks.object_tags import read_class_names
from vlrun.blocks.wordpiece import without_punctuation
from vlrun.data.annotations import field_problems, write_annotations
from vlrun.files import write_text
from vlrun.foreign.json import parse_json
from vlrun_pretraining.records import GraphedText
from vlrun_pretraining.rosita.graph import Words
from vlrun_pretraining.rosita.priors import Entries, Priors
from vlrun_pretraining.rosita.word_vectors import build_word_vectors
from vlrun_pretraining.sources import (
    CLASS_NAMES,
    CLASS_NAMES_FILE,
    ROSITA_HELD_OUT,
    ROSITA_OBTAIN,
    ROSITA_PREFIXES,
    ROSITA_PRIORS,
    ROSITA_SETS,
)

_COLUMNS = 13  # rosita/data/load_data_pretrain.py, lines 305 to 312
_TEXT, _LEMMAS, _SOURCE, _FILE, _GRAPH = 4, 5, 6, 8, 12
_MOST_PROBLEMS = 50

_EVERY, _MOST_HELD_OUT = 25, 1000
"""Of so many images of pt-coco one is held out, until there are so many of them."""


def build_rosita(folder: Path, output: Path) -> BuildReport:
    """Translates ``pt-coco/pt_coco_annotations_train.tsv`` and its like, of the folder or of ``annotations`` in it.

    Texts and lemmas are cleaned as the authors do it when they read them, so that the graph counts the words that are
    written. What the priors say of a graph is written into it, so that nobody needs their table afterwards. Sets that
    are not there are left out, all but pt-coco. Rows are read one by one.

    Where the folder also holds a text file of word vectors, ``glove*.txt`` or ``*.vec``, their table is made as well.

    Raises:
        DataError: a file is missing or damaged, or parts of a row do not fit each other.
    """
    annotations = folder / "annotations" if (folder / "annotations").is_dir() else folder
    paths = {name: _set_path(annotations, name) for name in ROSITA_SETS}
    there = {name: path for name, path in paths.items() if path.is_file()}
    if ROSITA_SETS[0] not in there:
        raise DataError(f"{paths[ROSITA_SETS[0]]} is not there. {ROSITA_OBTAIN}")
    names = _class_names_path(folder, annotations)
    read_class_names(names)
    writer = _Writer(output, Priors.read(annotations / ROSITA_SETS[0] / ROSITA_PRIORS))
    held_out = _held_out(there[ROSITA_SETS[0]])
    for name, path in there.items():
        writer.write(name, _Rows(path), name, leave_out=held_out)
    if held_out and not writer.problems:
        writer.write(ROSITA_HELD_OUT, _Rows(there[ROSITA_SETS[0]]), ROSITA_SETS[0], keep=held_out)
    if writer.problems:
        raise DataError(first_few(writer.problems))
    write_text(output / CLASS_NAMES_FILE, names.read_text(encoding="utf-8"))
    remarks = [f"'{name}' is left out: {path} is not there" for name, path in paths.items() if name not in there]
    if held_out:
        remarks.append(f"{len(held_out):,} images of {ROSITA_SETS[0]} are in '{ROSITA_HELD_OUT}' alone")
    for path in _vector_files(folder, annotations)[:1]:
        remarks += build_word_vectors(path, output, output).remarks
    return BuildReport(writer.counts, tuple(remarks))


def _set_path(annotations: Path, name: str) -> Path:
    return annotations / name / f"{name.replace('-', '_')}_annotations_train.tsv"


def _class_names_path(folder: Path, annotations: Path) -> Path:
    places = [place / "genome_vocabs" for place in (folder, annotations, annotations.parent)]
    for place in (*places, folder, annotations):
        if (place / CLASS_NAMES).is_file():
            return place / CLASS_NAMES
    raise DataError(
        f"{CLASS_NAMES} is not in {folder}; take ROSITA's own, whose names are not those of the detector. "
        f"{ROSITA_OBTAIN}"
    )


def _vector_files(*folders: Path) -> list[Path]:
    return [path for folder in folders for pattern in ("glove*.txt", "*.vec") for path in sorted(folder.glob(pattern))]


@dataclass(frozen=True)
class _Row:
    place: str
    number: int
    columns: Sequence[str]

    @property
    def image(self) -> str:
        source = self.columns[_SOURCE]
        if source not in ROSITA_PREFIXES:
            raise DataError(f"{self.place}: img_src '{source}' is none of {', '.join(ROSITA_PREFIXES)}")
        return ROSITA_PREFIXES[source] + canonical_image_id(self.columns[_FILE])

    def record(self, set_name: str, priors: Priors) -> dict[str, Any]:
        """The row as a line of ours, and all that is wrong with it as a DataError."""
        words = without_punctuation(self._json(_TEXT, "text", str)).split()
        lemmas = without_punctuation(self._json(_LEMMAS, "lemmas", str)).split()
        if len(words) != len(lemmas):
            raise DataError(f"{self.place}: the text has {len(words)} words, and there are {len(lemmas)} lemmas")
        entries = self._entries(self._json(_GRAPH, "tsg", dict), len(words))
        graph, missing = priors.graph(entries, lemmas)
        if missing:
            raise DataError(f"{self.place}: {ROSITA_PRIORS} is of other texts: {'; '.join(first_few(missing, 3))}")
        return {
            "id": f"{set_name}_{self.number}",
            "text": " ".join(words),
            "image": self.image,
            "lemmas": lemmas,
            "objects": graph.objects,
            "attributes": [vars(each) for each in graph.attributes],
            "relations": [vars(each) for each in graph.relations],
        }

    def _json(self, column: int, name: str, kind: type) -> Any:
        try:
            value = parse_json(self.columns[column])
        except ValueError as error:
            raise DataError(f"{self.place}: column {column} ({name}): not JSON: {error}") from error
        if not isinstance(value, kind):
            wanted = "a text" if kind is str else "an object"
            raise DataError(f"{self.place}: column {column} ({name}): expected {wanted}, found {type(value).__name__}")
        return value

    def _entries(self, graph: Mapping[str, Any], num_words: int) -> Entries:
        """The three lists of the graph (lines 473 to 534 of the authors' file)."""
        problems: list[str] = []

        def read(key: str, parts: int) -> list[tuple[Words, ...]]:
            found = []
            entries = graph.get(key)
            if not isinstance(entries, list):
                problems.append(f"{self.place}: tsg: {key}: expected a list, found {type(entries).__name__}")
                return []
            for number, entry in enumerate(entries):
                where = f"{self.place}: tsg: {key}, entry {number}"
                if not _are_words(entry, parts):
                    problems.append(f"{where}: expected {parts} lists of numbers of words, found {str(entry)[:60]}")
                elif (last := max(word for part in entry for word in part)) >= num_words:
                    problems.append(f"{where}: names word {last}, and the text has {num_words}, from 0 on")
                else:
                    found.append(tuple(map(tuple, entry)))
            return found

        objects, attributes, relations = read("objs", 1), read("attrs", 2), read("rels", 3)
        if problems:
            raise DataError(problems)
        return [words for (words,) in objects], attributes, relations  # type: ignore[return-value]


def _are_words(entry: Any, parts: int) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == parts
        and all(isinstance(part, list) and part for part in entry)
        and all(isinstance(word, int) and not isinstance(word, bool) and word >= 0 for part in entry for word in part)
    )


class _Rows:
    """The rows of a TSV file, which begin where its ``.lineidx`` says, if it has one."""

    def __init__(self, path: Path) -> None:
        self.path, self._index = path, path.with_suffix(".lineidx")

    def __iter__(self) -> Iterator[_Row]:
        """Raises DataError where the index is of another file; rows with another number of columns as DataError."""
        starts = self._starts()
        offset = 0
        with self.path.open("rb") as file:
            number = -1
            for number, line in enumerate(file):
                if starts is not None and (number >= len(starts) or starts[number] != offset):
                    says = f"begins at byte {starts[number]}" if number < len(starts) else "is not there"
                    raise DataError(
                        f"{self._index}: by it row {number + 1} of {self.path.name} {says}, and it begins at {offset}; "
                        "one of the files is cut off or not of the other: get both again"
                    )
                offset += len(line)
                yield self._row(number, line)
        if starts is not None and len(starts) > number + 1:
            raise DataError(
                f"{self._index}: has {len(starts):,} rows, and {self.path.name} has {number + 1:,}; "
                "one of the files is cut off or not of the other: get both again"
            )

    def _row(self, number: int, line: bytes) -> _Row:
        try:
            columns = line.decode().rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            columns = [f"not UTF-8 at byte {error.start}"]
        return _Row(f"{self.path}:{number + 1}", number, columns)

    def _starts(self) -> Sequence[int] | None:
        try:
            lines = self._index.read_bytes().split()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{self._index}: {error.strerror or error}") from error
        try:
            return list(map(int, lines))
        except ValueError as error:
            raise DataError(f"{self._index}: expected a number in each line: {error}") from error


class _Writer:
    """Writes sets, and keeps what is wrong with rows until all are read."""

    def __init__(self, output: Path, priors: Priors) -> None:
        self.output, self.priors = output, priors
        self.counts: dict[str, int] = {}
        self.problems: list[str] = []

    def write(
        self,
        split: str,
        rows: _Rows,
        set_name: str,
        *,
        keep: frozenset[str] | None = None,
        leave_out: frozenset[str] = frozenset(),
    ) -> None:
        try:
            self.counts[split] = write_annotations(
                self.output / f"{split}.jsonl", self._records(rows, set_name, keep, leave_out), GraphedText
            )
        except DataError:
            if not self.problems:  # else nothing was left to write
                raise

    def _records(
        self, rows: _Rows, set_name: str, keep: frozenset[str] | None, leave_out: frozenset[str]
    ) -> Iterator[GraphedText]:
        for row in rows:
            if len(self.problems) > _MOST_PROBLEMS:
                raise DataError(first_few(self.problems))
            try:
                _check_columns(row)
                if row.image in leave_out or (keep is not None and row.image not in keep):
                    continue
                record = GraphedText.model_validate(row.record(set_name, self.priors))
            except ValidationError as error:
                self.problems += [f"{row.place}: {problem}" for problem in field_problems(error)]
            except DataError as error:
                self.problems += error.problems
            else:
                yield record


def _check_columns(row: _Row) -> None:
    if len(row.columns) != _COLUMNS:
        found = row.columns[0] if len(row.columns) == 1 else f"{len(row.columns)} of them"
        raise DataError(f"{row.place}: expected {_COLUMNS} columns with tabs between them, found {found[:60]}")


def _held_out(path: Path) -> frozenset[str]:
    """Images spread over the file."""
    images: dict[str, None] = {}
    for row in _Rows(path):
        if len(row.columns) == _COLUMNS and row.columns[_SOURCE] in ROSITA_PREFIXES:
            images.setdefault(row.image)
    every = max(_EVERY, ceil(len(images) / _MOST_HELD_OUT))
    found = [*images]
    return frozenset(found[every - 1 :: every] or found[1:][-1:])  # of few images the last, of one none
