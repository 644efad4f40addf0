"""How often something is said of which object: ROSITA's table of priors, looked up when annotations are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from vlrun import DataError
from vlrun.files import read_object
from vlrun_pretraining.rosita.graph import Attribute, Relation, SceneGraph, Words

Table = Mapping[str, Mapping[str, float]]
Entries = tuple[Sequence[Words], Sequence[tuple[Words, Words]], Sequence[tuple[Words, Words, Words]]]
"""Objects; attributes as words of the object and of what is said; relations as words of subject, relation, object."""

_TABLES = ("attr_count", "rel_count")


@dataclass(frozen=True)
class Priors:
    """Lemma of the object -> lemmas of the phrase, with a space between them -> relative frequency.

    Phrases of relations have the words of the other object, too: ``ride horse`` of ``man``, ``man ride`` of ``horse``.
    """

    attributes: Table
    relations: Table

    @classmethod
    def read(cls, path: Path) -> Priors:
        """The tables ``attr_count`` and ``rel_count`` of a file of the authors'.

        Raises:
            DataError: it is missing or damaged, or holds something else than numbers.
        """
        content = read_object(path)
        if missing := [name for name in _TABLES if not isinstance(content.get(name), Mapping)]:
            raise DataError(f"{path}: {' and '.join(missing)}: expected an object by lemma")
        for name in _TABLES:
            for lemma, phrases in content[name].items():
                if not isinstance(phrases, Mapping):
                    raise DataError(f"{path}: {name}.{lemma}: expected an object from phrases to numbers")
                for phrase, number in phrases.items():
                    if not _is_frequency(number):
                        raise DataError(f"{path}: {name}.{lemma}: '{phrase}': expected a number of 0 or more")
        return cls(*(content[name] for name in _TABLES))

    def graph(self, entries: Entries, lemmas: Sequence[str]) -> tuple[SceneGraph, list[str]]:
        """The graph with the frequencies of what it says, and which of them are missing.

        What is said of something that is no object of the graph is never looked up (``load_data_pretrain.py``
        518-549): its frequency is 0. So it is where one is missing.
        """
        objects, attributes, relations = entries
        named = {lemmas[words[0]] for words in objects}
        missing: list[str] = []

        def frequency(table: Table, name: str, centre: Words, phrase: Sequence[int]) -> float:
            lemma = lemmas[centre[0]]
            if lemma not in named:
                return 0.0
            words = " ".join(lemmas[word] for word in phrase)
            found = table.get(lemma, {}).get(words)
            if found is None:
                missing.append(f"{name} of '{lemma}' has no '{words}'")
            return found or 0.0

        graph = SceneGraph(
            tuple(objects),
            tuple(
                Attribute(of, words, frequency(self.attributes, "attr_count", of, words)) for of, words in attributes
            ),
            tuple(
                Relation(
                    subject,
                    words,
                    of,
                    frequency(self.relations, "rel_count", subject, words + of),
                    frequency(self.relations, "rel_count", of, subject + words),
                )
                for subject, words, of in relations
            ),
        )
        return graph, missing


def _is_frequency(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and isfinite(number) and number >= 0
