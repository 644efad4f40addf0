"""Many questions at once: from Python in batches, and from a file, of which wrong lines are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_world import ToyTask, image_features

from vlrun import Batch, Choice, DataError, load_run
from vlrun.cli import main
from vlrun.plugins.manager import Plugins


def ask(folder: Path, *arguments: str | Path) -> int:
    return main(["ask", str(folder), *map(str, arguments)])


def test_many_questions_come_from_a_file(
    installed: Path, tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": "q", "text": "text 1", "image_id": "img1"}, {"texts": ["text 2"], "image_ids": ["img2.jpg"]}]
    (tmp_path / "many.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    assert ask(installed, "--file", tmp_path / "many.jsonl", "--json") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(answer["id"], answer["images"][0]["id"]) for answer in answers] == [("q", "img1"), (3, "img2")]
    assert ask(installed, "--file", tmp_path / "many.jsonl") == 0
    assert capsys.readouterr().out.splitlines()[0] == "q: text 1"


def test_wrong_lines_of_a_file_are_named_and_the_rest_is_answered(
    installed: Path, tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "many.jsonl"
    lines = [
        '{"text": "text 1", "image_id": "img1"}',
        '{"text": "", "image_id": "img1"}',
        "",
        '{"text": "text 1", "image_id": "img99"}',
        '{"text": "a"}',
        "[1]",
        '{"text": 1, "image_id": "a"}',
        "nonsense",
        '{"text": "a", "texts": [], "image_id": "b"}',
        "[" * 100_000,
        '{"text": "text 1", "image_id": "img1", "id": "\\ud800"}',
        '{"text": "text 2", "image_id": "img2", "id": "last"}',
    ]
    file.write_text("\n".join(lines))
    assert ask(installed, "--file", file, "--json") == DataError.exit_status
    captured = capsys.readouterr()
    assert [json.loads(line)["id"] for line in captured.out.splitlines()] == [1, "last"]
    *errors, last = captured.err.splitlines()
    assert [line.partition(": ")[0] for line in errors] == [f"{file}:{n}" for n in (2, 4, 5, 6, 7, 8, 9, 10, 11)]
    assert "the text is empty" in errors[0]
    assert "did you mean 'img" in errors[1]
    assert last == f"{file}: 9 of 11 questions have no answer"
    file.write_text(lines[0])
    assert ask(installed, "--file", file) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("batch_size", [None, 1, 2, 5])
def test_many_questions_have_the_answers_of_each_alone(
    batch_size: int | None, trained: Path, plugins: Plugins, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choices(task: ToyTask, outputs: torch.Tensor, batch: Batch) -> list[Choice]:
        assert (len(outputs), len(batch.ids), len(batch.encoding.boxes)) == (1, 1, 2)
        assert batch.targets["label"].shape == (1,)
        return [Choice("first", float(outputs[0].softmax(0)[0])), Choice("second")]

    monkeypatch.setattr(ToyTask, "choices", choices)
    loaded = load_run(trained, plugins=plugins)
    passes = []
    loaded.run.model.register_forward_hook(lambda *given: passes.append(1))
    questions = [(f"text {number}", f"img{number % 7}") for number in range(9)]
    wrong = [("text 1", "img99"), (["text 1", "text 2"], "img1"), ("text 1", ["img1", "img2"])]
    asked = [*questions[:4], *wrong, *questions[4:], ("text 3", replace(image_features(2), image_id="img3"))]
    many = list(loaded.ask_many(asked, batch_size=batch_size, top=1))  # type: ignore[arg-type]
    assert len(passes) == {None: 2, 1: 10, 2: 6, 5: 4}[batch_size]
    assert [type(answer).__name__ for answer in many[4:7]] == ["DataError", "UsageError", "UsageError"]
    for question, answer in zip(asked, many, strict=True):
        if question not in wrong:
            alone = loaded.ask(*question, top=1)  # type: ignore[arg-type]
            assert not isinstance(answer, Exception)
            assert (answer.question, answer.image_sizes) == (alone.question, alone.image_sizes)
            assert [choice.text for choice in answer.choices] == ["first"]
            assert answer.best.probability == pytest.approx(alone.best.probability, abs=1e-6)
    assert many[-1].best.probability != many[3].best.probability  # type: ignore[union-attr]


def test_outputs_that_cannot_be_told_apart_are_made_one_by_one(
    trained: Path, plugins: Plugins, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(task: ToyTask, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        if len(outputs) > 1 and "img2" in seen:
            raise DataError("the second image is damaged")
        return outputs.mT.contiguous()

    seen: list[str] = []
    monkeypatch.setattr(ToyTask, "decode", decode)
    monkeypatch.setattr(ToyTask, "choices", lambda task, outputs, batch: [Choice(str(tuple(outputs.shape)))])
    loaded = load_run(trained, plugins=plugins)
    questions = [(f"text {number}", f"img{number}") for number in range(5)]
    for _ in range(2):
        answers = list(loaded.ask_many(questions))
        assert [answer.best.text for answer in answers] == ["(2, 1)"] * 5  # type: ignore[union-attr]
        seen.append("img2")
