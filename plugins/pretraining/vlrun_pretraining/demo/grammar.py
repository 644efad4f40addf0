"""What a caption says about which things, as a parser of sentences would find it: objects, attributes, relations.

Captions have few words and one order of them, so that reading from left to right is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlrun_demo.language import (
    COLOUR_WORDS,
    NOUNS,
    NUMBERS,
    PATTERN_ENDINGS,
    PATTERN_WORDS,
    RELATION_WORDS,
    SIZE_WORDS,
    plural_of,
)

Words = list[int]

_NOT_A_WORD = re.compile(r"[^\w\s]|_")
_BACKGROUND = "background"
_NOUNS = {noun: noun for synonyms in NOUNS.values() for noun in synonyms} | {_BACKGROUND: _BACKGROUND}
_LEMMAS = {plural_of(noun): noun for noun in _NOUNS} | {"is": "be", "are": "be", "stripes": "stripe", "dots": "dot"}
_LEMMAS |= {"spots": "spot", "checks": "check"}
_ADJECTIVES = {
    word
    for table in (COLOUR_WORDS, SIZE_WORDS, PATTERN_WORDS)
    for synonyms in table.values()
    for phrase in synonyms
    for word in phrase.split()
} | {"gray", "white", "sandy", "light", *NUMBERS}
_ENDINGS = {phrase.split()[-1] for phrases in PATTERN_ENDINGS.values() for phrase in phrases}
_RELATIONS = sorted(
    [phrase.split() for phrases in RELATION_WORDS.values() for phrase in phrases] + [["on"]], key=len, reverse=True
)


@dataclass(frozen=True)
class Parsed:
    """A caption in words, and its scene graph in numbers of these.

    Attributes:
        objects: the words of each object.
        attributes: words of the object, words that describe it.
        relations: words of the subject, of the relation and of the object.
    """

    words: list[str]
    lemmas: list[str]
    objects: list[Words]
    attributes: list[tuple[Words, Words]]
    relations: list[tuple[Words, Words, Words]]


def parsed(text: str) -> Parsed:
    """The words of a caption, without punctuation, and what they say."""
    words = _NOT_A_WORD.sub("", text).split()
    lemmas = [_LEMMAS.get(word.lower(), word.lower()) for word in words]
    objects: list[Words] = []
    attributes: list[tuple[Words, Words]] = []
    described: Words = []
    relations = []
    between: Words | None = None
    for place, (word, lemma) in enumerate(zip(words, lemmas, strict=True)):
        if lemma in _NOUNS:
            objects.append([place])
            attributes += [([place], [adjective]) for adjective in described]
            if between is not None and len(objects) > 1:
                relations.append((objects[-2], between, objects[-1]))
            described, between = [], None
        elif word.lower() in _ENDINGS and objects:
            attributes.append((objects[-1], [place]))
        elif word.lower() in _ADJECTIVES:
            described.append(place)
        between = between or _relation_at(lemmas, place)
    return Parsed(words, lemmas, objects, attributes, relations)


def _relation_at(lemmas: Sequence[str], place: int) -> Words | None:
    for phrase in _RELATIONS:
        if list(lemmas[place : place + len(phrase)]) == phrase:
            return [*range(place, place + len(phrase))]
    return None


def lemmas_of_things() -> Iterator[tuple[str, str]]:
    """Every noun, with the kind of thing that it names; of the background its own."""
    for kind, synonyms in NOUNS.items():
        yield from ((noun, kind) for noun in synonyms)
    yield _BACKGROUND, _BACKGROUND
