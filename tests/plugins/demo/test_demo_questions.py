"""Questions and answers, apart from words: right, balanced, and nothing to be guessed from the question."""

from __future__ import annotations

from collections import Counter

import pytest

from vlrun_demo.entailment import derived, facts
from vlrun_demo.meaning import Description, referents
from vlrun_demo.official_gqa import SHARES
from vlrun_demo.questions import Question, answer, questions
from vlrun_demo.scene import COLOURS, KINDS, Scene, Thing, make_sparse_scene

SHARES_OF_ALL = {**SHARES, "count": 10}


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, Question]]:
    scenes = [make_sparse_scene(9_000_000 + number) for number in range(300)]
    return [(scene, question) for scene in scenes for question in questions(scene, SHARES_OF_ALL, 6)]


def answers(asked: list[tuple[Scene, Question]], *asks: str) -> list[str]:
    return [answer(scene, question) for scene, question in asked if question.asks in asks]


def test_answers_are_right(asked: list[tuple[Scene, Question]]) -> None:
    """Worked out from the things of the scene, without the functions that made the questions."""
    for scene, question in asked:
        stated = question.about.attributes
        found = [t for t in scene.things if all(getattr(t, name) == value for name, value in stated.items())]
        given = answer(scene, question)
        kinds = {thing.kind for thing in scene.things}
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
            middle = (thing.box[0] + thing.box[2]) / 2 / scene.width
            expected = {
                "verify": "yes" if question.options == (thing.colour,) else "no",
                "side": "left" if middle < 0.5 else "right",
            }
            assert given == expected.get(question.asks, str(getattr(thing, question.attribute or "kind")))


def test_all_kinds_of_questions_are_asked(asked: list[tuple[Scene, Question]]) -> None:
    kinds = {"query", "side", "choose", "verify", "exist", "count", "either", "both"}

    assert {question.asks for _, question in asked} == kinds


def test_questions_about_a_scene_differ_and_are_always_the_same() -> None:
    scene = make_sparse_scene(9_000_001)
    found = questions(scene, SHARES, 6)

    assert len(set(found)) == len(found)
    assert questions(make_sparse_scene(9_000_001), SHARES, 6) == found


def test_a_question_does_not_give_its_answer_away(asked: list[tuple[Scene, Question]]) -> None:
    for _, question in asked:
        assert question.attribute not in question.about.attributes
        if question.asks == "choose":
            assert len(set(question.options)) == 2


@pytest.mark.parametrize("asks", ["exist", "verify"])
def test_yes_and_no_are_about_as_frequent(asked: list[tuple[Scene, Question]], asks: str) -> None:
    found = answers(asked, asks)

    assert 0.35 < found.count("yes") / len(found) < 0.65


def test_no_value_is_a_good_guess(asked: list[tuple[Scene, Question]]) -> None:
    for attribute, values in (("colour", COLOURS), ("kind", KINDS)):
        found = Counter(
            answer(scene, question)
            for scene, question in asked
            if question.asks == "query" and question.attribute == attribute
        )
        assert set(found) == set(values)
        assert max(found.values()) < 0.25 * found.total()


def test_the_right_option_is_first_as_often_as_second(asked: list[tuple[Scene, Question]]) -> None:
    first = [answer(scene, question) == question.options[0] for scene, question in asked if question.asks == "choose"]

    assert 0.4 < sum(first) / len(first) < 0.6


def test_what_follows_from_an_answer_is_true(asked: list[tuple[Scene, Question]]) -> None:
    by_scene: dict[Scene, list[Question]] = {}
    for scene, question in asked:
        by_scene.setdefault(scene, []).append(question)
    checked = 0
    for scene, found in by_scene.items():
        for question in found:
            known = facts(question, answer(scene, question))
            assert derived(known, question) in (answer(scene, question), None)
            for other in found:
                implied = derived(known, other)
                checked += implied is not None and other != question
                assert implied in (None, answer(scene, other)), (question, other)
    assert checked > 100


def test_a_colour_tells_about_the_same_thing_only() -> None:
    ball = Description(kind="ball")
    known = facts(Question("query", ball, "colour"), "red")

    assert derived(known, Question("verify", ball, "colour", ("red",))) == "yes"
    assert derived(known, Question("verify", ball, "colour", ("blue",))) == "no"
    assert derived(known, Question("query", Description(colour="red"), "kind")) == "ball"
    assert derived(known, Question("exist", ball)) == "yes"
    assert derived(known, Question("side", ball)) is None
    assert derived(known, Question("verify", Description(kind="cat"), "colour", ("red",))) is None
    assert derived(known, Question("query", Description(pattern="plain"), "colour")) is None


def test_existence_tells_about_this_or_that() -> None:
    either, both = (Question(asks, Description(), options=("cat", "ball")) for asks in ("either", "both"))
    yes, no = (facts(Question("exist", Description(kind="cat")), given) for given in ("yes", "no"))

    assert (derived(yes, either), derived(yes, both)) == ("yes", None)
    assert (derived(no, either), derived(no, both)) == (None, "no")
    assert derived(facts(either, "no"), both) == "no"
    assert derived(facts(both, "yes"), either) == "yes"


def test_sparse_scenes_hold_one_to_four_things_inside_the_picture() -> None:
    scenes = [make_sparse_scene(9_000_000 + number) for number in range(200)]

    assert {len(scene.things) for scene in scenes} == {1, 2, 3, 4}
    for scene in scenes:
        assert all(0 <= thing.box[0] < thing.box[2] <= scene.width for thing in scene.things)
        assert all(0 <= thing.box[1] < thing.box[3] <= scene.height for thing in scene.things)


def test_a_single_referent_is_meant(make_thing) -> None:  # type: ignore[no-untyped-def]
    things: tuple[Thing, ...] = (make_thing(100, 100), make_thing(400, 100, kind="cat", colour="blue"))
    scene = Scene(9_000_002, 640, 480, "white", things)

    for question in questions(scene, {"query colour": 1, "query kind": 1, "side": 1}, 6):
        assert len(referents(scene, question.about)) == 1
