"""Answer lists and the heads that they belong to, where weights are imported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_weights import TOY, toy_tensors

from vlrun.blocks.answers import AnswerVocabulary
from vlrun.engine.weight_files import ImportReport, import_weights, read_imported
from vlrun.engine.weight_summary import inspect_weights
from vlrun.errors import CheckpointError

WITH_LISTS = replace(TOY, answer_lists={3: "short.json", 5: "long.json"}, head_reader="toy_weights:answers_of")


def imported(
    folder: Path, rows: int | None, answers: list[str] | None, biases: int | None = None, own: list[str] | None = None
) -> ImportReport:
    """Imports toy weights with an answer head of this many rows, or without one; ``own`` is a list in the file."""
    head = {}
    if rows is not None:
        last = {"weight": torch.ones(rows, 2), "bias": torch.ones(biases or rows)}
        head = {f"answer_head.dense1.{name}": tensor for name, tensor in last.items()}
    told = {} if own is None else {"answers": own}
    torch.save({"net": {**toy_tensors(), **head}, **told}, folder / "net.pth")
    heads = {} if answers is None else {"answer_head": {"answers": answers}}
    return import_weights(folder / "net.pth", folder / "net.safetensors", WITH_LISTS, heads=heads)


@pytest.mark.parametrize(("rows", "answers"), [(3, "abcde"), (5, "abc")], ids=["a longer list", "a shorter list"])
def test_a_list_of_another_size_than_the_head_is_refused_with_both(tmp_path: Path, rows: int, answers: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        imported(tmp_path, rows, list(answers))
    message = str(caught.value)
    assert f"the answer head has {rows} rows, the list of answers has {len(answers)}" in message
    assert f"a head of that size belongs to {'short' if rows == 3 else 'long'}.json" in message
    assert not (tmp_path / "net.safetensors").exists()


def test_a_list_of_the_same_size_is_kept_and_what_cannot_be_known_is_said(tmp_path: Path) -> None:
    (remark,) = imported(tmp_path, 3, ["a", "b", "c"]).remarks
    assert f"3 rows for 3 answers (list {AnswerVocabulary(('a', 'b', 'c')).hash})" in remark
    assert "order is that of the training cannot be seen" in remark
    assert read_imported(tmp_path / "net.safetensors")[1]["heads"] == {"answer_head": {"answers": ["a", "b", "c"]}}


@pytest.mark.parametrize(("rows", "known"), [(3, "short.json"), (5, "long.json"), (4, None)])
def test_a_head_without_a_list_is_imported_and_the_right_list_named(
    tmp_path: Path, rows: int, known: str | None
) -> None:
    (remark,) = imported(tmp_path, rows, None).remarks
    assert f"{rows} rows, and which answers they mean is not known" in remark
    assert remark.endswith(f"belongs to {known}" if known else "--answers LIST")


def test_a_list_for_a_file_without_an_answer_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no answer head"):
        imported(tmp_path, None, ["a"])
    assert imported(tmp_path, None, None).remarks == ()


def test_a_head_whose_weights_and_biases_disagree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"net\.pth: .*3 rows of weights and 5 biases"):
        imported(tmp_path, 3, ["a", "b", "c"], biases=5)


def test_a_list_in_the_file_itself_is_kept_and_another_one_refused(tmp_path: Path) -> None:
    (remark,) = imported(tmp_path, 3, None, own=["a", "b", "c"]).remarks
    assert remark.endswith("for 3 answers (list {}); as the file says".format(AnswerVocabulary(("a", "b", "c")).hash))
    assert read_imported(tmp_path / "net.safetensors")[1]["heads"] == {"answer_head": {"answers": ["a", "b", "c"]}}
    assert "3 answers" in inspect_weights(tmp_path / "net.pth", {"toy": WITH_LISTS}).heads["answer_head"]
    with pytest.raises(CheckpointError, match="the file itself lists other answers"):
        imported(tmp_path, 3, ["b", "a", "c"], own=["a", "b", "c"])
    with pytest.raises(CheckpointError, match="the answer head has 3 rows, the list of answers has 2"):
        imported(tmp_path, 3, None, own=["a", "b"])
    assert imported(tmp_path, None, None, own=["a", "b"]).remarks == ()


def test_the_authors_files_name_the_list_of_each_size() -> None:
    from vlrun.plugins.manager import create_plugins

    formats = create_plugins().weight_formats()
    assert "all_ans.json" in formats["lxmert"].answer_lists[9500]
    assert "data/vqa" in formats["lxmert-s"].answer_lists[3129]
    assert "data/gqa" in formats["hf-lxmert"].answer_lists[1842]
    assert "answer_vocab.json" in formats["rosita"].answer_lists[3129]
