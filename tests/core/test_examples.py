"""Predictions say what they are about and what is right, and a report shows a handful of them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import toy_world as toy
from PIL import Image
from toy_runs import experiment

from vlrun import Case, Dataset, Example, Prediction, View
from vlrun.cli import main
from vlrun.engine.examples import SHOWN, Chooser, Pictures, example_record
from vlrun.engine.run_folder import RunFolder
from vlrun.interfaces.cases import target_fields
from vlrun.interfaces.reporter import Outcome, RunInfo
from vlrun.plugins.manager import Plugins
from vlrun.reporting.examples import FOLDER, read_examples
from vlrun.reporting.html import render_report
from vlrun.reporting.options import is_recipe
from vlrun.runs.again import read_predictions, score_file
from vlrun.runs.run import changed_options, run_experiment

NASTY = "<script>alert('x')</script> & \"quotes\" \x1b[31m"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_line_has_text_images_and_truth(world: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(world, plugins), plugins=plugins)
    lines = lines_of(result.folder / "predictions" / "match_test.jsonl")
    assert [set(line) for line in lines] == [{"id", "texts", "images", "truth", "answer"}] * 11
    assert lines[3] == {**lines[3], "texts": ["text 3"], "images": ["img3"], "truth": {"target": 1}}


def test_a_hidden_split_has_no_truth(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = toy.ToyDataset.__getitem__

    def item(dataset: toy.ToyDataset, index: int) -> Example[int]:
        example = shown(dataset, index)
        return Example(example.id, example.text, example.image_ids) if dataset.split == "test" else example

    monkeypatch.setattr(toy.ToyDataset, "__getitem__", item)
    result = run_experiment(experiment(world, plugins), plugins=plugins)
    assert all("truth" not in line for line in lines_of(result.folder / "predictions" / "match_test.jsonl"))
    assert all("truth" in line for line in lines_of(result.folder / "predictions" / "match_val.jsonl"))
    assert not any(group.examples[0].right for group in read_examples(result.folder) if "match test" in group.title)
    for order in (["val", "test"], ["test", "val"]):
        titles = [group.title for group in read_examples(result.folder, [("match", split) for split in order])]
        splits = [split for title in titles for split in order if title.endswith(f"match {split}")]
        assert list(dict.fromkeys(splits)) == order, "as the results are"


def test_old_files_and_new_ones_score_the_same(world: Path, plugins: Plugins) -> None:
    result = run_experiment(experiment(world, plugins), plugins=plugins)
    path, old = result.folder / "predictions" / "match_test.jsonl", world / "old.jsonl"
    old.write_text("".join(json.dumps({key: line[key] for key in ("id", "answer")}) + "\n" for line in lines_of(path)))
    _, scores = score_file(experiment(world, plugins), "test", path, plugins)
    assert score_file(experiment(world, plugins), "test", old, plugins)[1] == scores
    assert [prediction.fields for prediction in read_predictions(old)] == [
        {"answer": line["answer"]} for line in lines_of(path)
    ]


def test_what_a_task_predicts_goes_before_what_it_is_about(tmp_path: Path) -> None:
    case = Case("1", ("a",), ("i",), {"label": True})
    path = RunFolder(tmp_path).write_predictions("t", "s", [Prediction("1", {"truth": 3, "images": 0})], [case])
    assert lines_of(path) == [{"id": "1", "texts": ["a"], "images": 0, "truth": 3}]


class Split(Dataset[Any]):
    split, protocol = "val", {}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Example[Any]:
        return Example(str(index), f"text {index}", (f"img{index}",), index)


@pytest.mark.parametrize("ids", ["0123", "3210", "13", "2x0", "x"])
def test_predictions_find_their_examples_in_any_order(ids: str) -> None:
    cases = toy.ToyTask().cases([Prediction(name, {"answer": 1}) for name in ids], Split())
    assert [(case.id, case.texts) for case in cases] == [
        (name, (f"text {name}",) if name != "x" else ()) for name in ids
    ]


@dataclass(frozen=True)
class Target:
    label: str
    weight: float | None
    tensor: Any = None


def test_a_target_is_written_as_far_as_json_has_the_like() -> None:
    assert target_fields(Example("1", "", (), Target("a", None, object()))) == {"label": "a"}
    assert target_fields(Example("1", "", (), object())) == {}
    assert target_fields(Example("1", "", (), {"a": [1, (2.5, None)]})) == {"target": {"a": [1, (2.5, None)]}}


# --- which are shown ---


def cases(credits: Sequence[float | None], question: str = "") -> list[Case]:
    return [
        Case(str(number), (f"text {number}",), credit=credit, question=question, views=(View(f"i{number}"),))
        for number, credit in enumerate(credits)
    ]


def chosen(given: Sequence[Case], pictures: Pictures | None = None) -> list[tuple[str, str]]:
    chooser = Chooser(pictures or Pictures(None))
    assert list(chooser.passing(given)) == list(given)
    return [(kind, case.id) for kind, case in chooser.chosen()]


def test_the_choice_depends_on_ids_alone() -> None:
    given = cases([0.0, 0.3, 1.0, 0.6, None] * 20)
    first = chosen(given)
    assert first == chosen(given[::-1])
    assert [kind for kind, _ in first] == [kind for kind in ("wrong", "right", "unjudged") for _ in range(SHOWN)]
    assert {name for kind, name in first if kind == "right"} <= {case.id for case in given if case.credit in (1.0, 0.6)}
    left = [case for case in given if case.id != first[0][1]]
    assert set(first[1:]) < set(chosen(left))  # one that goes does not change the others


def test_each_question_has_its_own_and_pictures_go_first(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("i3.jpg", "below/i17.PNG", "i5.txt"):
        (tmp_path / name).touch()
    pictures = Pictures(tmp_path)
    assert ("i3" in pictures, "i17" in pictures, "i5" in pictures) == (True, True, False)
    assert {name for _, name in chosen(cases([1.0] * 40), pictures)} > {"3", "17"}
    both = [*cases([1.0] * 9, "one"), *cases([1.0] * 9, "another")]
    assert len(chosen(both)) == 2 * SHOWN
    assert chosen([Case("1")]) == []  # of which nothing is known


def test_pictures_are_small_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    Image.effect_noise((2000, 1000), 90).convert("RGB").save(tmp_path / "big.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    said: list[str] = []
    views = (View("big", predicted=(0, 0, 100, 50), right=(90, 90, 10, 10), size=(200, 100)), View("bad"), View("none"))
    record = example_record("right", Case("1", views=views), Pictures(tmp_path), said.append)
    address, *others = [image["picture"] for image in record["images"]]
    content = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))
    assert len(content) < 40_000  # of noise, the worst case
    assert Image.open(io.BytesIO(content)).size == (240, 120)
    assert others == [None, None]
    assert said == [
        f"the report shows no picture of bad: {tmp_path / 'bad.jpg'}: no picture that can be read (JPEG, PNG)"
    ]


# --- the page ---


def write(folder: Path, *examples: dict[str, Any]) -> None:
    (folder / FOLDER).mkdir(exist_ok=True)
    RunFolder(folder).write_examples("match", "val", examples)


def page(folder: Path) -> str:
    (folder / "metrics.jsonl").touch()
    return render_report(folder, Outcome("done", ""), RunInfo("toys", folder, [], 1, 1, 1))


def test_the_page_shows_them_escaped(tmp_path: Path) -> None:
    picture = "data:image/jpeg;base64,AAAA"
    images = [
        {"id": NASTY, "caption": "right", "picture": picture},
        {"id": "b", "caption": "", "picture": "https://elsewhere/x.jpg"},
    ]
    write(
        tmp_path,
        {
            "id": NASTY,
            "kind": "wrong",
            "credit": 0.3,
            "texts": [NASTY],
            "predicted": NASTY,
            "right": "r",
            "images": images,
        },
        {"id": "2", "kind": "right", "credit": 1.0, "texts": ["t"], "predicted": "p", "question": "image retrieval"},
    )
    text = page(tmp_path)
    assert "<script>" not in text
    assert text.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") == 5
    assert "elsewhere" not in text
    assert f'<img src="{picture}"' in text
    assert "img-src data:" in text
    assert "Wrong: match val<" in text
    assert "Right: match val, image retrieval<" in text
    assert "(30% right)" in text


@pytest.mark.parametrize(
    "content",
    ["", "[", '{"examples": 3}', '{"examples": [1, {"texts": 2, "images": {}}]}', '{"task": [], "split": {}}'],
)
def test_a_damaged_file_shows_nothing_wrong(content: str, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / FOLDER / "match_val.json").write_text(content)
    assert "</html>" in page(tmp_path)


@pytest.fixture
def toys(world: Path, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    install("vlrun-toys", "from toy_world import vlrun_backbones, vlrun_datasets, vlrun_tasks\n")
    monkeypatch.chdir(world)
    text = toy.EXPERIMENT.partition("reporters:")[0]
    (world / "toys.yaml").write_text(f"data_root: data\nruns_root: runs\n{text}")
    (world / "data" / "pictures").mkdir()
    for number in range(toy.NUM_IMAGES):
        Image.new("RGB", (20, 20)).save(world / "data" / "pictures" / f"img{number}.png")
    return world


def test_a_run_shows_the_pictures_that_it_is_told_of(toys: Path) -> None:
    assert main(["run", "toys.yaml", "train.epochs=1", "tasks.0.dataset.pictures=pictures"]) == 0
    text = (toys / "runs" / "toys" / "latest" / "report.html").read_text()
    assert text.count("<img ") == 2 * SHOWN
    assert "Without a verdict: match test" in text


def test_pictures_can_be_added_to_a_finished_run(toys: Path) -> None:
    assert main(["run", "toys.yaml", "train.epochs=1"]) == 0
    run = toys / "runs" / "toys" / "latest"
    assert "<img " not in (run / "report.html").read_text()
    assert main(["evaluate", str(run), "tasks.0.dataset.pictures=pictures"]) == 0
    assert not (run / "evaluations").exists()
    assert main(["report", str(run), "--html"]) == 0
    assert (run / "report.html").read_text().count("<img ") == 2 * SHOWN
    before, after = ("tasks:\n- dataset:\n    pictures: " + name for name in ("a", "b"))
    assert changed_options(before, after) == []
    assert changed_options(before, after.replace("pictures", "limit"))
    assert not is_recipe("tasks.0.dataset.pictures")
