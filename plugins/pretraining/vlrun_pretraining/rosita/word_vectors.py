"""Vectors of words, read from one table beside the annotations, and how that table is made of a file of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlrun import BuildReport, DataError, first_few
from vlrun.blocks.object_tags import read_class_names
from vlrun.data.annotations import AnnotationFile
from vlrun.files import atomic_write, read_arrays
from vlrun_pretraining.records import GraphedText
from vlrun_pretraining.sources import CLASS_NAMES_FILE, WORD_VECTORS_FILE

Floats = NDArray[np.float32]
_SHOWN = 5


class WordVectors:
    """Vectors of names, of which each is the mean of those of its words; an unknown word counts as zeros."""

    def __init__(self, words: Mapping[str, int], vectors: Floats) -> None:
        """Takes the rows of ``words`` in ``vectors`` (N, D)."""
        self._words, self._vectors = words, vectors

    @classmethod
    def read(cls, path: Path) -> WordVectors:
        """The table in a file of ``write_word_vectors``.

        Raises:
            DataError: it is missing or damaged, or repeats a word.
        """
        try:
            arrays = read_arrays(path, ["words", "vectors"])
        except FileNotFoundError as error:
            raise DataError(f"{path}: {error.strerror}; {HOW_TO_BUILD}") from error
        except DataError as error:
            raise DataError(f"{error}: not a table of words and vectors; {HOW_TO_BUILD}") from error
        words, vectors = arrays["words"], arrays["vectors"]
        if words.ndim != 1 or words.dtype.kind != "U" or vectors.ndim != 2 or len(words) != len(vectors):
            raise DataError(
                f"{path}: expected words (N,) and vectors (N, D), found {words.dtype} {words.shape} and {vectors.shape}"
            )
        if vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
            raise DataError(f"{path}: vectors: expected finite numbers, found {vectors.dtype}")
        rows = {word: row for row, word in enumerate(words.tolist())}
        if len(rows) < len(words):
            raise DataError(f"{path}: {len(words) - len(rows):,} words are there twice")
        return cls(rows, vectors.astype(np.float32, copy=False))

    def of(self, names: Iterable[str]) -> Floats:
        """(names, D), of length 1; zeros where no word is known."""
        width = self._vectors.shape[1]
        found = [self._mean(name, width) for name in names]
        means = np.stack(found) if found else np.zeros((0, width), np.float32)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        return np.divide(means, lengths, out=np.zeros_like(means), where=lengths > 0)

    def _mean(self, name: str, width: int) -> Floats:
        words = name.split()
        rows = [self._words[word] for word in words if word in self._words]
        if not rows:
            return np.zeros(width, np.float32)
        total: Floats = self._vectors[rows].sum(axis=0, dtype=np.float32)
        return total / np.float32(len(words))


HOW_TO_BUILD = "make it with: runner data build rosita-pretraining --from word-vectors FILE ANNOTATIONS"


def build_word_vectors(path: Path, output: Path, annotations: Path) -> BuildReport:
    """Keeps of a text file of vectors those of the lemmas of objects and of the names of classes in ``annotations``.

    A line is a word and its numbers, with spaces between them, as in the files of GloVe and fastText; a first line of
    two numbers, as fastText has it, is left out. The file is read once and never held.

    Args:
        path: the file of vectors.
        output: the folder to write into.
        annotations: the folder with the annotation files and ``classes.txt``.

    Raises:
        DataError: there are no annotations, a line is damaged, or no word is found.
    """
    wanted = dict.fromkeys(_words(annotations))
    found: dict[str, Floats] = {}
    for word, vector in _lines(path, wanted):
        found.setdefault(word, vector)
    if not found:
        raise DataError(f"{path}: has vectors of none of the {len(wanted):,} words, such as {', '.join([*wanted][:3])}")
    words = [word for word in wanted if word in found]
    write_word_vectors(output / WORD_VECTORS_FILE, words, np.stack([found[word] for word in words]))
    remarks = [f"{WORD_VECTORS_FILE} has vectors of {len(found):,} of {len(wanted):,} words"]
    if missing := [word for word in wanted if word not in found]:
        remarks.append(f"without a vector, so near to nothing: {', '.join(first_few(missing, _SHOWN))}")
    return BuildReport({}, tuple(remarks))


def write_word_vectors(path: Path, words: list[str], vectors: Floats) -> None:
    """Writes words (N,) and their vectors (N, D)."""
    with atomic_write(path, "wb") as file:
        np.savez(file, words=np.array(words), vectors=vectors)


def _words(folder: Path) -> Iterator[str]:
    """Lemmas of objects, of all annotation files in the folder, and words of the names of classes."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise DataError(f"{folder}: there are no annotations, whose words get vectors; build them first")
    for path in files:
        file = AnnotationFile(path)
        for place in range(len(file)):
            record = file.read(place, GraphedText)
            yield from (record.lemmas[words[0]] for words in record.objects)
    for name in read_class_names(folder / CLASS_NAMES_FILE):
        yield from name.split()


def _lines(path: Path, wanted: Mapping[str, None]) -> Iterator[tuple[str, Floats]]:
    width = None
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            parts = line.rstrip().split(b" ")
            if number == 1 and len(parts) == 2:
                continue  # how many words, and how wide
            width = width or len(parts) - 1
            word = b" ".join(parts[: len(parts) - width]).decode("utf-8", "replace")  # some of GloVe's have spaces
            if word not in wanted:
                continue
            try:
                vector = np.array(parts[len(parts) - width :], dtype=np.bytes_).astype(np.float32)
            except ValueError:
                vector = np.full(width, np.nan, np.float32)
            if len(parts) <= width or not np.isfinite(vector).all():
                raise DataError(f"{path}:{number}: expected a word and {width} numbers")
            yield word, vector
