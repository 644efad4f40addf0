"""Runs of every kind of task are asked what they have predicted, and say the same; the example of the docs runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlrun import Answer, LoadedRun, load_run

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "train.epochs=1",
    "train.workers=0",
    "tasks.0.dataset.limit=24",
    "demo_pretraining=null",
    "backbone.weights=null",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``runs(experiment)``: the folder of its demo run; each runs once."""
    root = tmp_path_factory.mktemp("asked") / "runs"
    cache = os.environ.get("VLRUN_CACHE") or str(tmp_path_factory.mktemp("cache"))
    environment = {**os.environ, "VLRUN_CACHE": cache, "OMP_NUM_THREADS": "1"}

    def run(experiment: str) -> Path:
        folder = root / experiment
        if not folder.exists():
            file = ROOT / "experiments" / f"{experiment}.yaml"
            command = [
                sys.executable,
                str(ROOT / "runner.py"),
                "run",
                str(file),
                "--demo",
                "--output",
                str(root),
                *SHORT,
            ]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
            assert done.returncode == 0, done.stderr
        return folder

    return run


def predicted(run: LoadedRun, count: int = 8) -> list[tuple[Any, dict[str, Any]]]:
    """The first examples of the run's first split with what the run has predicted of each."""
    config = run.task_run.config.dataset
    file = run.run.folder.path / "predictions" / f"{run.name}_{config.evaluate[0]}.jsonl"
    rows = {row["id"]: row for row in map(json.loads, file.read_text().splitlines())}
    from vlrun.plugins.manager import create_plugins

    dataset = create_plugins().find("dataset", config.name).build(config, config.evaluate[0])
    examples = [dataset[number] for number in range(len(dataset))]
    return [(example, rows[example.id]) for example in examples if example.id in rows][:count]


def asked(run: LoadedRun, example: Any) -> Answer:
    return run.ask(example.text, example.image_ids)


@pytest.mark.parametrize("experiment", ["lxmert_vqa", "rosita_gqa"])
def test_answers(experiment: str, runs: Any) -> None:
    run = load_run(runs(experiment))
    for example, row in predicted(run):
        answer = asked(run, example)
        assert answer.best.text == row["answer"]
        assert answer.best.probability == pytest.approx(row["score"], rel=1e-4)
        chances = [choice.probability for choice in answer.choices]
        assert chances == sorted(chances, reverse=True)
        assert len(chances) == 5
    everything = run.ask(example.text, example.image_ids, top=10_000).choices
    assert sum(choice.probability or 0 for choice in everything) == pytest.approx(1)


def test_statements_about_two_images(runs: Any) -> None:
    run = load_run(runs("lxmert_nlvr2"))
    for example, row in predicted(run):
        answer = asked(run, example)
        true = next(choice for choice in answer.choices if choice.text == "true")
        assert true.probability == pytest.approx(row["score"], rel=1e-4)
        assert (answer.best.text == "true") == row["label"]
        assert len(answer.image_sizes) == 2


def test_places(runs: Any) -> None:
    run = load_run(runs("rosita_refcoco+"))
    for example, row in predicted(run):
        best, second, *_ = asked(run, example).choices
        assert best.box == pytest.approx(row["box"], abs=0.01)
        assert best.text == f"region {row['region']}"
        assert best.probability == pytest.approx(row["score"], rel=1e-4)
        assert second.box != best.box
        assert (second.probability or 0) <= (best.probability or 0)


def test_images_of_a_text_and_texts_of_an_image(runs: Any) -> None:
    run = load_run(runs("rosita_itr_flickr"))
    images = run.image_ids()[:40]
    answer = run.ask("a red ball", images, top=40)
    assert sorted(choice.text for choice in answer.choices) == sorted(images)
    alone = {image: run.ask("a red ball", image).best.probability for image in images[:3]}
    together = {choice.text: choice.probability for choice in answer.choices}
    assert alone == pytest.approx({image: together[image] for image in alone}, abs=1e-5)
    texts = ["a red ball", "two dogs", "a blue box on a table"]
    reverse = run.ask(texts, images[0])
    assert sorted(choice.text for choice in reverse.choices) == sorted(texts)
    assert {choice.text: choice.probability for choice in reverse.choices}["a red ball"] == pytest.approx(
        together[images[0]], abs=1e-5
    )
    from vlrun import UsageError

    with pytest.raises(UsageError, match="several of both are no question"):
        run.ask(texts, images[:2])


KINDS = {"lxmert_vqa": 1, "rosita_gqa": 1, "lxmert_nlvr2": 2, "rosita_refcoco+": 1, "rosita_itr_flickr": 3}
"""How many images a question of each has here."""

TEXTS = ("the red ball", "a dog", "two blue boxes", "a", "green")


@pytest.mark.parametrize("experiment", KINDS)
def test_many_questions_at_once_have_the_answers_of_each_alone(experiment: str, runs: Any) -> None:
    run, count = load_run(runs(experiment)), KINDS[experiment]
    images = run.image_ids()
    questions = [(TEXTS[number % 5], images[number : number + count]) for number in range(7)]
    for question, many in zip(questions, run.ask_many(questions, batch_size=4), strict=True):
        alone = run.ask(*question)
        assert isinstance(many, Answer)
        assert (many.question, many.image_sizes) == (alone.question, alone.image_sizes)
        for one, other in zip(many.choices, alone.choices, strict=True):
            assert one.probability == pytest.approx(other.probability, abs=1e-5)
            assert one.box == (other.box and pytest.approx(other.box, abs=0.01))


@pytest.mark.parametrize("experiment", KINDS)
def test_the_page_shows_what_a_run_answers_and_attends_to(experiment: str, runs: Any) -> None:
    test = pytest.importorskip("werkzeug.test")
    from vlrun_serve.app import AskPage

    run = load_run(runs(experiment))
    images = run.image_ids()[: KINDS[experiment]]
    form = {"text": TEXTS[0], **{f"image{number}": name for number, name in enumerate(images)}}
    response = test.Client(AskPage(run)).post("/ask", data=form, content_type="multipart/form-data")
    told = json.loads(response.text)
    answer = run.ask(TEXTS[0], images, attention=True)
    assert told == json.loads(json.dumps(answer.as_json()))
    assert answer.choices == run.ask(TEXTS[0], images).choices
    shown = [answer.best.text] if run.asked_images is None else images
    assert [attention.image_id for attention in answer.attention] == shown
    for attention in answer.attention:
        assert attention.words == ("the", "red", "ball")
        assert len(attention.boxes) == len(run.features(attention.image_id).boxes)
        for shares in (attention.shares, *attention.word_shares):
            assert len(shares) == len(attention.boxes)
            assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_the_example_of_the_page_runs(
    runs: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ask.md").read_text(), re.DOTALL)
    monkeypatch.chdir(runs("lxmert_vqa").parents[1])
    exec(compile(code, "docs/ask.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 7
    assert printed[0].split()[0] == printed[1].split()[1]
