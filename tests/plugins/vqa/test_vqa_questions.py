"""Questions in a file: in order, found by id, replaced in place, and read as the builders need them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from vlrun_vqa.questions import Questions
from vlrun_vqa.records import VqaQuestion


def question(number: int, text: str = "What?") -> VqaQuestion:
    return VqaQuestion(id=str(number), text=text, image="COCO_val2014_000000000042", answers=("a", "b"))


def test_they_keep_their_order_and_are_found_by_id(tmp_path: Path) -> None:
    questions = Questions(tmp_path / "not" / "there")
    for number in (30, 4, 20):
        questions.add(question(number))
    questions.rest()
    assert [*questions] == ["30", "4", "20"]
    assert questions["4"] == question(4)
    questions.add(question(4, "Which?"))
    assert [record.text for record in questions.values()] == ["What?", "Which?", "What?"]
    assert (len(questions), len(questions.values())) == (3, 3)
    assert "20" in questions
    assert [name for name in ("5", "x", "", "020", "9" * 5000, 20) if name in questions] == []
    assert questions.get("5") is None
    with pytest.raises(KeyError):
        questions["no"]
    assert [*tmp_path.iterdir()] == []  # the file has no name


def test_a_part_is_read_from_the_same_file(tmp_path: Path) -> None:
    questions = Questions(tmp_path)
    for number in range(5):
        questions.add(question(number, f"text {number}"))
    part = questions.only(["3", "9", "1", "3", "x"])
    assert list(part) == ["3", "1"]
    assert [record.text for record in part.values()] == ["text 3", "text 1"]
    questions.add(question(7))
    assert part["1"].text == "text 1"
    assert "7" not in part


def test_a_question_takes_few_bytes_of_memory(tmp_path: Path) -> None:
    number = 5000
    questions = Questions(tmp_path)
    for each in range(100):  # whatever is made once
        questions.add(question(each))
    tracemalloc.start()
    for each in range(100, number):
        questions.add(question(each))
    looked_up = tracemalloc.get_traced_memory()[0]
    questions.rest()
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert looked_up < 250 * number
    assert left < 40 * number
