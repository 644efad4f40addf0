"""Numbers beside published ones, and marks where protocols differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import ResultRow
from vlrun.reporting.results import compare_protocols, result_table, value_text

SHA = "0123456789abcdef" * 4


def row(
    split: str = "val",
    name: str = "accuracy",
    value: float = 76.5,
    published: float | None = None,
    task: str = "rec",
    unit: str = "%",
    reasons: Sequence[str] = (),
    error: float | None = None,
    **protocol: Any,
) -> ResultRow:
    score = Score(
        name, value, unit, protocol={"split": split, **protocol}, primary=name == "accuracy", standard_error=error
    )
    return ResultRow(task, split, score, published, "Cui et al. 2021" if published else "", reasons)


def test_a_protocol_that_all_rows_share_is_said_once() -> None:
    lines = result_table([row("val", iou="plus_one"), row("testA", iou="plus_one")], is_demo=False).as_lines()
    assert lines[-1] == "Protocol of all results: iou plus_one"
    assert "[" not in "\n".join(lines)


def test_what_a_split_or_a_score_always_comes_with_is_said_of_it_without_marks() -> None:
    rows = [
        row("val", "accuracy", file="val.jsonl", box="predicted"),
        row("val", "oracle", file="val.jsonl", box="best"),
        row("testA", "accuracy", file="testA.jsonl", box="predicted"),
        row("testA", "oracle", file="testA.jsonl", box="best"),
    ]
    assert result_table(rows, is_demo=False).footnotes == [
        "val: file val.jsonl",
        "testA: file testA.jsonl",
        "accuracy: box predicted",
        "oracle: box best",
    ]


def test_splits_that_say_the_same_say_it_together() -> None:
    rows = [row("val", pool="small"), row("testA", pool="large"), row("testB", pool="large")]
    assert result_table(rows, is_demo=False).footnotes == ["val: pool small", "testA, testB: pool large"]


def test_the_same_split_and_score_under_two_protocols_is_marked() -> None:
    rows = [row(value=86.0, boxes="annotated"), row(value=99.6, boxes="detected"), row(value=86.1, boxes="annotated")]
    table = result_table(rows, is_demo=False)
    assert [cells[2] for cells in table.rows] == ["86.00 % [1]", "99.60 % [2]", "86.10 % [1]"]
    assert table.footnotes == ["[1] boxes annotated", "[2] boxes detected"]


def test_a_protocol_item_that_one_row_lacks_is_a_difference() -> None:
    protocols = compare_protocols([row(), row(left_out="3 examples")])
    assert protocols.marks == [None, 1]
    assert protocols.notes == [{"left_out": "3 examples"}]


def test_order_and_kind_of_numbers_in_a_protocol_do_not_matter_but_their_value_does() -> None:
    same = compare_protocols([row(pool={"images": 1000, "texts": 5000}), row(pool={"texts": 5000, "images": 1000})])
    other = compare_protocols([row(pool=1000), row(pool=5000)])
    assert same.marks == [None, None]
    assert other.marks == [1, 2]


def test_two_tasks_with_splits_of_one_name_are_told_apart() -> None:
    rows = [row("val", task="vqa", file="a"), row("val", task="gqa", file="b")]
    assert result_table(rows, is_demo=False).footnotes == ["vqa val: file a", "gqa val: file b"]


def test_the_difference_has_a_sign_and_unpublished_rows_have_a_dash() -> None:
    rows = [row(value=76.31, published=76.06), row("testA", value=81.8, published=82.01), row("testB")]
    table = result_table(rows, is_demo=False)
    assert table.headers == ["split", "score", "result", "published", "difference"]
    assert [cells[3:] for cells in table.rows] == [["76.06 %", "+0.25"], ["82.01 %", "-0.21"], ["-", "-"]]
    assert table.footnotes[-1] == "Published numbers: Cui et al. 2021"


def test_scores_without_unit_keep_four_digits() -> None:
    assert result_table([row(value=0.123456, unit="")], is_demo=False).rows == [["val", "accuracy", "0.1235"]]


def test_a_score_has_its_standard_error_beside_it() -> None:
    rows = [row(value=87.5, error=0.6), row(name="rsum", value=512.3, unit="", error=1.84), row("testB")]
    texts = [cells[2] for cells in result_table(rows, is_demo=False).rows]
    assert texts == ["87.50 ± 0.60 %", "512.3 ± 1.8", "76.50 %"]


def test_what_is_not_comparable_has_no_difference_and_each_reason_is_said_once() -> None:
    rows = [
        row(published=76.06, reasons=["tiny", "one epoch"]),
        row("testA", published=82.01, reasons=["tiny", "30 examples", "one epoch"]),
        row("testB", published=67.40, reasons=["30 examples", "other boxes", "tiny", "one epoch"]),
        row("train"),
    ]
    table = result_table(rows, is_demo=False)
    assert [cells[-1] for cells in table.rows] == ["not comparable", "not comparable [a]", "not comparable [a,b]", "-"]
    assert [cells[-2] for cells in table.rows] == ["76.06 %", "82.01 %", "67.40 %", "-"]
    start = "Not comparable with the published numbers:"
    assert table.footnotes[-3:] == [f"{start} tiny; one epoch", f"[a] {start} 30 examples", f"[b] {start} other boxes"]


def test_a_row_that_is_comparable_keeps_its_difference_beside_one_that_is_not() -> None:
    rows = [row(value=76.31, published=76.06), row("testA", published=82.01, reasons=["30 examples"])]
    assert [cells[-1] for cells in result_table(rows, is_demo=False).rows] == ["+0.25", "not comparable"]


def test_notes_have_letters_however_many_there_are() -> None:
    rows = [row(f"split{number}", published=1.0, reasons=[f"reason {number}"]) for number in range(28)]
    texts = [cells[-1] for cells in result_table(rows, is_demo=False).rows]
    wanted = {0: "a", 25: "z", 26: "aa", 27: "ab"}
    assert {place: texts[place] for place in wanted} == {at: f"not comparable [{name}]" for at, name in wanted.items()}


def test_hashes_are_cut_where_space_is_short_and_whole_elsewhere() -> None:
    assert value_text(f"val.jsonl {SHA}", shorten=True) == "val.jsonl 0123456789ab"
    assert value_text(f"val.jsonl {SHA}") == f"val.jsonl {SHA}"
