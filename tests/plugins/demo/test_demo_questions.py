"""Questions and answers, apart from words: right, balanced, and nothing to be guessed from the question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from vlrun_demo.images import Image
from vlrun_demo.language import COLOURS, KINDS, Question, answer, questions, referents, value_of
from vlrun_demo.scene import Thing, make_sparse_scene

SHARES = {
    "query colour": 29,
    "query kind": 26,
    "choose": 13,
    "side": 10,
    "exist": 11,
    "verify": 7,
    "either": 2,
    "both": 2,
    "count": 10,
}


def sparse(number: int) -> Image:
    return Image(number, "train", str(number), "train", make_sparse_scene)


@pytest.fixture(scope="module")
def asked() -> list[tuple[Image, Question]]:
    chosen = [sparse(9_000_000 + number) for number in range(300)]
    return [(image, question) for image in chosen for question in questions(image, SHARES, 6)]


def answers(asked: list[tuple[Image, Question]], *asks: str) -> list[str]:
    return [answer(image, question) for image, question in asked if question.asks in asks]


def test_answers_are_right(asked: list[tuple[Image, Question]]) -> None:
    """Worked out from the objects of the image, without the functions that made the questions."""
    for image, question in asked:
        stated = question.about.attributes
        found = [t for t in image.objects if all(value_of(t, name) == value for name, value in stated.items())]
        given = answer(image, question)
        kinds = {thing.name for thing in image.objects}
        if question.asks == "count":
            assert given == str(len(found))
        elif question.asks == "exist":
            assert given == ("yes" if found else "no")
        elif question.asks == "either":
            assert given == ("yes" if kinds & set(question.options) else "no")
        elif question.asks == "both":
            assert given == ("yes" if kinds >= set(question.options) else "no")
        else:
            (thing,) = found
            middle = (thing.box[0] + thing.box[2]) / 2 / image.width
            expected = {
                "verify": "yes" if question.options == (thing.attributes["colour"],) else "no",
                "side": "left" if middle < 0.5 else "right",
            }
            assert given == expected.get(question.asks, value_of(thing, question.attribute or "kind"))


def test_all_kinds_of_questions_are_asked(asked: list[tuple[Image, Question]]) -> None:
    kinds = {"query", "side", "choose", "verify", "exist", "count", "either", "both"}

    assert {question.asks for _, question in asked} == kinds


def test_questions_about_a_scene_differ_and_are_always_the_same() -> None:
    found = questions(sparse(9_000_001), SHARES, 6)

    assert len(set(found)) == len(found)
    assert questions(sparse(9_000_001), SHARES, 6) == found


def test_a_question_does_not_give_its_answer_away(asked: list[tuple[Image, Question]]) -> None:
    for _, question in asked:
        assert question.attribute not in question.about.attributes
        if question.asks == "choose":
            assert len(set(question.options)) == 2


@pytest.mark.parametrize("asks", ["exist", "verify"])
def test_yes_and_no_are_about_as_frequent(asked: list[tuple[Image, Question]], asks: str) -> None:
    found = answers(asked, asks)

    assert 0.35 < found.count("yes") / len(found) < 0.65


def test_no_value_is_a_good_guess(asked: list[tuple[Image, Question]]) -> None:
    for attribute, values in (("colour", COLOURS), ("kind", KINDS)):
        found = Counter(
            answer(image, question)
            for image, question in asked
            if question.asks == "query" and question.attribute == attribute
        )
        assert set(found) == set(values)
        assert max(found.values()) < 0.25 * found.total()


def test_the_right_option_is_first_as_often_as_second(asked: list[tuple[Image, Question]]) -> None:
    first = [answer(image, question) == question.options[0] for image, question in asked if question.asks == "choose"]

    assert 0.4 < sum(first) / len(first) < 0.6


def test_sparse_scenes_hold_one_to_four_things_inside_the_picture() -> None:
    scenes = [make_sparse_scene(9_000_000 + number) for number in range(200)]

    assert {len(scene.things) for scene in scenes} == {1, 2, 3, 4}
    for scene in scenes:
        assert all(0 <= thing.box[0] < thing.box[2] <= scene.width for thing in scene.things)
        assert all(0 <= thing.box[1] < thing.box[3] <= scene.height for thing in scene.things)


def test_a_single_referent_is_meant(make_thing: Callable[..., Thing], make_image: Callable[..., Image]) -> None:
    image = make_image((make_thing(100, 100), make_thing(400, 100, kind="cat", colour="blue")))

    for question in questions(image, {"query colour": 1, "query kind": 1, "side": 1}, 6):
        assert len(referents(image, question.about)) == 1
