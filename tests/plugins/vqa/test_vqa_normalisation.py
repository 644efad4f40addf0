"""Spelling as the official evaluator has it, oddities included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlrun_vqa.normalisation import (
    ARTICLES,
    CONTRACTIONS,
    NUMBER_WORDS,
    PUNCTUATION,
    normalise,
    one_line,
    vocabulary_spelling,
    without_punctuation,
)


@pytest.mark.golden
def test_the_tables_are_those_of_the_evaluator(golden: Path) -> None:
    tables = json.loads((golden / "metrics/vqa/normalisation_tables.json").read_text())
    assert tables["contractions"] == CONTRACTIONS
    assert tables["number_words"] == NUMBER_WORDS
    assert set(tables["articles"]) == ARTICLES
    assert sorted(tables["punctuation_in_processing_order"]) == sorted(PUNCTUATION)


@pytest.mark.golden
def test_answers_are_spelled_as_rosita_spells_them(golden: Path) -> None:
    items = json.loads((golden / "rosita/answers.json").read_text())["items"]
    assert items
    assert {item["raw"]: vocabulary_spelling(item["raw"]) for item in items} == {
        item["raw"]: item["processed"] for item in items
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("n/a", "n"),
        ("a,b", "b"),
        ("none", "0"),
        ("no one", "no 1"),
        ("twenty one", "twenty 1"),
        ("dont know", "don't know"),
        ("black, white", "black white"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),  # the table has capitals, the words do not
        ("its", "its"),
        ("hot\u00a0dog", "hot dog"),
        ("?", ""),
        ("the", ""),
        ("100%", "100%"),
    ],
)
def test_words(given: str, expected: str) -> None:
    assert normalise(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("t-shirt", "t shirt"),
        ("t- shirt", "t shirt"),
        ("black/white -ish", "black white ish"),
        ("1,000-2,000", "10002000"),  # digits around a comma delete every mark
        ("a,1,2", "a12"),
        ("3.", "3"),
        ("u.s.a.", "usa"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("x.3", "x.3"),
        ("5.a", "5a"),
        ("3..5", "3.5"),
        ("what's #1", "what's #1"),
        ("." * 40, "." * 8),  # 32 at most
    ],
)
def test_punctuation(given: str, expected: str) -> None:
    assert without_punctuation(given) == expected


def test_one_line_keeps_inner_spaces() -> None:
    assert one_line("\t two \n words ") == "two   words"
