"""Expressions and captions say what is to be seen: checked by reading their words again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from vlrun_demo import language
from vlrun_demo.captions import captions
from vlrun_demo.expressions import MANNERS, refer
from vlrun_demo.meaning import Description, Relation, referents, refers_to
from vlrun_demo.official_refcoco import Referent
from vlrun_demo.scene import ATTRIBUTES, Scene, Thing

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
            assert refers_to(referent.scene, understood(expression.sent), referent.thing), expression
            assert refers_to(referent.scene, expression.meaning, referent.thing)


def test_refcoco_plus_uses_no_location_words(referents: Callable[[str], list[Referent]]) -> None:
    sents = [expression.sent for referent in referents("refcoco+") for expression in referent.expressions]

    assert not [sent for sent in sents if language.LOCATION_WORDS & set(sent.split())]
    assert {"left", "bottom", "corner", "next", "above", "middle"} <= language.LOCATION_WORDS


def test_refcoco_often_uses_location_words(referents: Callable[[str], list[Referent]]) -> None:
    sents = [expression.sent for referent in referents("refcoco") for expression in referent.expressions]
    share = sum(bool(language.LOCATION_WORDS & set(sent.split())) for sent in sents) / len(sents)

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
            combined.append(not any(refers_to(referent.scene, description, referent.thing) for description in alone))

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

    assert nouns | language.LOCATION_WORDS <= words
    assert words <= set(language.all_words())


def test_a_twin_cannot_be_told_apart_by_appearance(make_thing: Callable[..., Thing]) -> None:
    scene = Scene(1, 640, 480, "white", (make_thing(100, 240), make_thing(500, 240)))

    assert refer(scene, scene.things[0], "refcoco+", random.Random(0), 3) == []
    sents = [expression.sent for expression in refer(scene, scene.things[0], "refcoco", random.Random(0), 3)]
    assert sents
    assert all("left" in sent for sent in sents)


@pytest.mark.parametrize(
    ("place", "chosen"),
    [("left", 0), ("right", 3), ("top", 0), ("bottom", 3), ("top left", 0), ("bottom right", 3), ("middle", 1)],
)
def test_a_place_means_the_thing_that_is_furthest_there(
    place: str, chosen: int, make_thing: Callable[..., Thing]
) -> None:
    things = tuple(make_thing(x, y) for x, y in ((60, 60), (320, 240), (450, 330), (580, 420)))

    assert referents(Scene(1, 640, 480, "white", things), Description(place=place)) == (things[chosen],)


def test_a_place_is_no_help_where_two_are_about_as_far(make_thing: Callable[..., Thing]) -> None:
    things = (make_thing(60, 60), make_thing(70, 400))

    assert len(referents(Scene(1, 640, 480, "white", things), Description(place="left"))) == 2


def test_nothing_is_at_a_place_that_is_empty(make_thing: Callable[..., Thing]) -> None:
    scene = Scene(1, 640, 480, "white", (make_thing(60, 60), make_thing(200, 400)))

    assert referents(scene, Description(place="right")) == ()


@pytest.mark.parametrize(
    ("relation", "expected"),
    [("left of", [0]), ("right of", [2]), ("above", []), ("below", []), ("next to", [2])],
)
def test_relations_are_seen_from_the_other_thing(
    relation: str, expected: list[int], make_thing: Callable[..., Thing]
) -> None:
    things = (make_thing(60, 240), make_thing(320, 240, kind="star"), make_thing(420, 240))
    description = Description(kind="ball", relation=Relation(relation, Description(kind="star")))
    found = referents(Scene(1, 640, 480, "white", things), description)

    assert [things.index(thing) for thing in found] == expected


def test_every_image_has_five_captions_that_are_true(scenes: list[Scene]) -> None:
    for scene in scenes:
        found = captions(scene)
        assert len({caption.text for caption in found}) == 5
        for caption in found:
            assert caption.claims
            assert all(len(referents(scene, description)) == count for description, count in caption.claims)


def test_captions_tell_most_images_apart(scenes: list[Scene]) -> None:
    """Few captions of one image are true of another."""
    true_elsewhere = [
        all(len(referents(other, description)) == count for description, count in caption.claims)
        for scene, other in pairwise(scenes)
        for caption in captions(scene)
    ]

    assert sum(true_elsewhere) / len(true_elsewhere) < 0.1


@pytest.mark.parametrize(
    ("noun", "plural"), [("box", "boxes"), ("kitty", "kitties"), ("ball", "balls"), ("donut", "donuts")]
)
def test_plurals(noun: str, plural: str) -> None:
    assert language.plural_of(noun) == plural


@pytest.mark.parametrize(
    ("words", "expected"), [("orange ball", "an orange ball"), ("red one", "a red one"), ("one", "a one")]
)
def test_an_article_fits_the_next_word(words: str, expected: str) -> None:
    assert language.with_article("a", words) == expected


def test_cleaning_drops_case_and_punctuation() -> None:
    assert language.cleaned("The RED Ball, on_the left.") == "the red ball on the left"


def test_every_attribute_value_has_words() -> None:
    for name, values in ATTRIBUTES.items():
        assert set(_TABLES[name][0]) == set(values)
