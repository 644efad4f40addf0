"""What descriptions fit, and the words of texts about images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from vlrun_demo.images import Image
from vlrun_demo.language import (
    ANSWER_WORDS,
    ATTRIBUTES,
    Description,
    Relation,
    captions,
    cleaned,
    plural_of,
    referents,
    with_article,
)
from vlrun_demo.scene import Thing


@pytest.mark.parametrize(
    ("place", "chosen"),
    [("left", 0), ("right", 3), ("top", 0), ("bottom", 3), ("top left", 0), ("bottom right", 3), ("middle", 1)],
)
def test_a_place_means_the_thing_that_is_furthest_there(
    place: str, chosen: int, make_thing: Callable[..., Thing], make_image: Callable[..., Image]
) -> None:
    things = tuple(make_thing(x, y) for x, y in ((60, 60), (320, 240), (450, 330), (580, 420)))

    image = make_image(things)

    assert referents(image, Description(place=place)) == (image.objects[chosen],)


def test_a_place_is_no_help_where_two_are_about_as_far(
    make_thing: Callable[..., Thing], make_image: Callable[..., Image]
) -> None:
    things = (make_thing(60, 60), make_thing(70, 400))

    assert len(referents(make_image(things), Description(place="left"))) == 2


def test_nothing_is_at_a_place_that_is_empty(
    make_thing: Callable[..., Thing], make_image: Callable[..., Image]
) -> None:
    image = make_image((make_thing(60, 60), make_thing(200, 400)))

    assert referents(image, Description(place="right")) == ()


@pytest.mark.parametrize(
    ("relation", "expected"),
    [("left of", [0]), ("right of", [2]), ("above", []), ("below", []), ("next to", [2])],
)
def test_relations_are_seen_from_the_other_thing(
    relation: str, expected: list[int], make_thing: Callable[..., Thing], make_image: Callable[..., Image]
) -> None:
    things = (make_thing(60, 240), make_thing(320, 240, kind="star"), make_thing(420, 240))
    description = Description(kind="ball", relation=Relation(relation, Description(kind="star")))
    image = make_image(things)

    assert [image.objects.index(thing) for thing in referents(image, description)] == expected


def test_every_image_has_five_captions_that_are_true(some_images: list[Image]) -> None:
    for image in some_images:
        found = captions(image)
        assert len({caption.text for caption in found}) == 5
        for caption in found:
            assert caption.claims
            assert all(len(referents(image, description)) == count for description, count in caption.claims)


def test_captions_tell_most_images_apart(some_images: list[Image]) -> None:
    """Few captions of one image are true of another."""
    true_elsewhere = [
        all(len(referents(other, description)) == count for description, count in caption.claims)
        for image, other in pairwise(some_images)
        for caption in captions(image)
    ]

    assert sum(true_elsewhere) / len(true_elsewhere) < 0.1


@pytest.mark.parametrize(
    ("noun", "plural"), [("box", "boxes"), ("kitty", "kitties"), ("ball", "balls"), ("donut", "donuts")]
)
def test_plurals(noun: str, plural: str) -> None:
    assert plural_of(noun) == plural


@pytest.mark.parametrize(
    ("words", "expected"), [("orange ball", "an orange ball"), ("red one", "a red one"), ("one", "a one")]
)
def test_an_article_fits_the_next_word(words: str, expected: str) -> None:
    assert with_article("a", words) == expected


def test_cleaning_drops_case_and_punctuation() -> None:
    assert cleaned("The RED Ball, on_the left.") == "the red ball on the left"


def test_every_attribute_value_has_words() -> None:
    for name, values in ATTRIBUTES.items():
        assert set(ANSWER_WORDS[name]) == set(values)
