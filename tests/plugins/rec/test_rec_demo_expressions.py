"""Referring expressions say what is to be seen: checked by reading their words again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from vlrun_demo import language
from vlrun_demo.images import Image
from vlrun_demo.language import Description, Relation, refers_to
from vlrun_demo.provider import VOCABULARY
from vlrun_demo.scene import Scene, Thing
from vlrun_rec.demo.expressions import MANNERS, refer
from vlrun_rec.demo.files import Referent

_PLACES = (language.PLACE_BEGINNINGS, language.PLACE_ENDINGS, language.RELATION_WORDS)
LOCATION_WORDS = {
    word
    for table in _PLACES
    for phrases in table.values()
    for phrase in phrases
    for word in phrase.split()
    if word not in {"the", "of", "on", "to", "in", "at", "than"}
}
"""What RefCOCO+ forbade its annotators to use."""

_TABLES = {
    "kind": [language.NOUNS],
    "colour": [language.COLOUR_WORDS],
    "size": [language.SIZE_WORDS],
    "pattern": [language.PATTERN_WORDS, language.PATTERN_ENDINGS],
    "place": [language.PLACE_BEGINNINGS, language.PLACE_ENDINGS],
}
_PHRASES = sorted(
    (
        (phrase, field, value)
        for field, tables in _TABLES.items()
        for table in tables
        for value, synonyms in table.items()
        for phrase in synonyms
    ),
    key=lambda found: -len(found[0]),
)
_RELATIONS = sorted(
    ((phrase, name) for name, synonyms in language.RELATION_WORDS.items() for phrase in synonyms),
    key=lambda found: -len(found[0]),
)


def understood(text: str) -> Description:
    """What ``text`` says, by looking up its words, longest phrases first; every word must mean something."""
    for phrase, name in _RELATIONS:
        before, found, after = f" {text} ".partition(f" {phrase} ")
        if found:
            return replace(understood(before.strip()), relation=Relation(name, understood(after.strip())))
    said: dict[str, str] = {}
    rest = f" {text} "
    for phrase, field, value in _PHRASES:
        if f" {phrase} " in rest:
            assert said.setdefault(field, value) == value
            rest = rest.replace(f" {phrase} ", " ", 1)
    assert set(rest.split()) <= {"the", "a", "an", *language.ANY_NOUN}, text
    return Description(**said)  # type: ignore[arg-type]


@pytest.mark.parametrize("dataset", MANNERS)
def test_the_words_of_an_expression_single_out_its_referent(
    dataset: str, referents: Callable[[str], list[Referent]]
) -> None:
    for referent in referents(dataset):
        for expression in referent.expressions:
            assert refers_to(referent.image, understood(expression.sent), referent.thing), expression
            assert refers_to(referent.image, expression.meaning, referent.thing)


def test_refcoco_plus_uses_no_location_words(referents: Callable[[str], list[Referent]]) -> None:
    sents = [expression.sent for referent in referents("refcoco+") for expression in referent.expressions]

    assert not [sent for sent in sents if LOCATION_WORDS & set(sent.split())]


def test_refcoco_often_uses_location_words(referents: Callable[[str], list[Referent]]) -> None:
    sents = [expression.sent for referent in referents("refcoco") for expression in referent.expressions]
    share = sum(bool(LOCATION_WORDS & set(sent.split())) for sent in sents) / len(sents)

    assert 0.4 < share < 0.8


def test_refcocog_is_longer_and_relates_things(referents: Callable[[str], list[Referent]]) -> None:
    def words(dataset: str) -> float:
        lengths = [len(found.sent.split()) for referent in referents(dataset) for found in referent.expressions]
        return sum(lengths) / len(lengths)

    relating = [found.meaning.relation for referent in referents("refcocog") for found in referent.expressions]

    assert words("refcocog") > 1.5 * max(words("refcoco"), words("refcoco+"))
    assert 0.3 < sum(relation is not None for relation in relating) / len(relating) < 0.8


def test_most_expressions_combine_words(referents: Callable[[str], list[Referent]]) -> None:
    """No one of their conditions would do."""
    combined = []
    for referent in referents("refcoco+"):
        for expression in referent.expressions:
            alone = [Description(**{name: value}) for name, value in expression.meaning.attributes.items()]
            combined.append(not any(refers_to(referent.image, description, referent.thing) for description in alone))

    assert sum(combined) / len(combined) > 0.6


def test_expressions_of_a_referent_differ(referents: Callable[[str], list[Referent]]) -> None:
    for referent in referents("refcoco+"):
        sents = [expression.sent for expression in referent.expressions]
        assert len(set(sents)) == len(sents)


def test_expressions_fit_into_twenty_tokens(referents: Callable[[str], list[Referent]]) -> None:
    longest = max(len(found.sent.split()) for referent in referents("refcocog") for found in referent.expressions)

    assert longest <= 18


def test_all_synonyms_occur(referents: Callable[[str], list[Referent]]) -> None:
    words = {
        word
        for dataset in MANNERS
        for referent in referents(dataset)
        for expression in referent.expressions
        for word in expression.sent.split()
    }
    nouns = {noun for synonyms in language.NOUNS.values() for noun in synonyms}

    assert nouns | LOCATION_WORDS <= words
    assert words <= set(VOCABULARY.read_text().split())


def test_a_twin_cannot_be_told_apart_by_appearance() -> None:
    twins = tuple(Thing("ball", "red", "small", "plain", (x, 210, x + 60, 270)) for x in (70, 470))
    image = Image(1, "train", "one", "one", lambda number: Scene(number, 640, 480, "white", twins))

    assert refer(image, image.objects[0], "refcoco+", random.Random(0), 3) == []
    sents = [expression.sent for expression in refer(image, image.objects[0], "refcoco", random.Random(0), 3)]
    assert sents
    assert all("left" in sent for sent in sents)
