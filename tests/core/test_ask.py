"""Asking a finished run: from Python and with ``runner ask``, without annotations, and every way to ask wrongly."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy_world as toy
from PIL import Image
from toy_world import ToyBackbone, ToyEncoder, ToyTask, image_features

from vlrun import (
    Batch,
    CheckpointError,
    Choice,
    ConfigError,
    DataError,
    Encoding,
    Pair,
    RegionBatch,
    RequiredFile,
    UsageError,
    load_run,
)
from vlrun.cli import main
from vlrun.config.experiment import load_experiment
from vlrun.engine.checkpoints import Checkpoints
from vlrun.engine.model import WithoutRandomNumbers
from vlrun.plugins.manager import Plugins


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy task points at two places."""

    def choices(task: ToyTask, outputs: torch.Tensor, batch: Batch) -> list[Choice]:
        return [Choice("here", 0.75, (10.0, 10.0, 40.0, 30.0)), Choice("there", 0.25, (50.0, 60.0, 90.0, 95.0))]

    monkeypatch.setattr(ToyTask, "choices", choices)


@pytest.fixture
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy backbone counts words, and cuts texts as others do."""

    class Counting(ToyEncoder):
        def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
            encoding = super().__call__(pairs, regions)
            words = min(self.most, max(len(pair.text.split()) for pair in pairs))
            return replace(encoding, text_mask=torch.ones(len(pairs), words, dtype=torch.bool))

    def pair_encoder(backbone: ToyBackbone, max_text_tokens: int) -> Counting:
        encoder = Counting(None)
        encoder.most = max_text_tokens
        return encoder

    monkeypatch.setattr(ToyBackbone, "pair_encoder", pair_encoder)


def test_it_answers_as_the_checkpoint_would(trained: Path, plugins: Plugins, alone: None) -> None:
    loaded = load_run(trained, plugins=plugins)
    assert loaded.checkpoint.startswith("best (step ")
    answer = loaded.ask("text 1", "img3")
    assert (answer.question.texts, answer.question.image_ids, answer.image_sizes) == (
        ("text 1",),
        ("img3",),
        ((100, 100),),
    )

    model = loaded.run.model
    Checkpoints(trained / "checkpoints").choose("best", "match").load_model(model)
    regions = loaded.store.read(["img3", "img3"]) if loaded.store else None
    assert regions is not None
    encoding = ToyEncoder(None)([Pair("text 1", "img3")] * 2, regions)
    with torch.inference_mode():
        logits = model("match", encoding)
    assert answer.best.text == f"answer {int(logits[0].argmax())}"
    assert not model.training


def test_ids_may_be_file_names_and_features_need_no_store(
    trained: Path, world: Path, plugins: Plugins, alone: None
) -> None:
    loaded = load_run(trained, plugins=plugins)
    stored = loaded.run.model("match", ToyEncoder(None)([Pair("text 1", "img2")] * 2, loaded.store.read(["img2"] * 2)))  # type: ignore[union-attr]
    assert loaded.ask("text 1", "folder/img2.jpg").question.image_ids == ("img2",)
    (world / "data" / "toys.lmdb").rename(world / "moved")
    moved = load_run(trained, plugins=plugins)
    outputs = []
    moved.task_run.task.choices = lambda logits, batch: outputs.append(logits) or [Choice("x")]  # type: ignore[method-assign, func-returns-value]
    answer = moved.ask("text 1", image_features(2))
    assert torch.equal(outputs[0], stored)
    assert answer.question.image_ids == ("img2",)
    assert moved.image_ids() == []
    with pytest.raises(DataError, match=r"region features, .*toys.lmdb, are not there"):
        moved.ask("text 1", "img2")


def test_photographs_go_through_the_detector(trained: Path, plugins: Plugins, alone: None) -> None:
    seen = []

    def detector(path: Path) -> toy.RegionFeatures:
        seen.append(path)
        return replace(image_features(4), image_id="photo", width=80)

    answer = load_run(trained, plugins=plugins, detector=detector).ask("text 1", Path("photo.jpg"))
    assert seen == [Path("photo.jpg")]
    assert (answer.question.image_ids, answer.image_sizes) == (("photo",), ((80, 100),))
    with pytest.raises(UsageError, match=r"photo.jpg: regions of a photograph come from a detector"):
        load_run(trained, plugins=plugins).ask("text 1", Path("photo.jpg"))


@pytest.mark.parametrize(
    ("text", "image", "error", "message"),
    [
        ("text 1", ["img1", "img2"], UsageError, "task 'match': it takes 1 image, and got 2 images"),
        ("text 1", [], UsageError, "it takes 1 image, and got no images"),
        (["text 1", "text 2"], "img1", UsageError, "it takes 1 text, and got 2 texts"),
        (" ", "img1", UsageError, "the text is empty"),
        ("text 1 \ud800", "img1", UsageError, "half a character"),
        ("text 1", "x" * 5000, DataError, r"image 'x{60}\.\.\.' has no region features"),
        ("text 1 a b c d e f g h i j k l m n o p q r s t", "img1", UsageError, "more than the 20 tokens"),
        (
            "text 1",
            "imgg1",
            DataError,
            r"'imgg1' has no region features in .*\(7 images\); did you mean 'img1'\?",
        ),
        ("text 1", "nowhere", DataError, "there is, for instance, 'img0'"),
    ],
    ids=[
        "two images",
        "no image",
        "two texts",
        "empty",
        "surrogate",
        "long id",
        "too long",
        "near spelling",
        "unknown",
    ],
)
def test_a_wrong_question_is_refused_in_one_line(
    text: str,
    image: str,
    error: type[Exception],
    message: str,
    trained: Path,
    plugins: Plugins,
    short_texts: None,
) -> None:
    with pytest.raises(error, match=message) as refused:
        load_run(trained, plugins=plugins).ask(text, image)
    assert "\n" not in str(refused.value)


def test_a_text_of_just_the_right_length_is_taken(trained: Path, plugins: Plugins, short_texts: None) -> None:
    assert load_run(trained, plugins=plugins).ask("text 1" + " a" * 18, "img1").choices


def test_a_run_without_a_checkpoint_is_refused(world: Path, plugins: Plugins, trained: Path) -> None:
    (trained / "checkpoints").rename(world / "elsewhere")
    with pytest.raises(CheckpointError, match="there is no checkpoint yet, so there is no model to ask"):
        load_run(trained, plugins=plugins)
    with pytest.raises(ConfigError, match="not a run folder"):
        load_run(world / "data", plugins=plugins)
    (world / "elsewhere").rename(trained / "checkpoints")
    with pytest.raises(UsageError, match="there is no task 'vqa' in this run"):
        load_run(trained, plugins=plugins, task="vqa")
    with pytest.raises(CheckpointError, match="there is no such checkpoint folder"):
        load_run(trained, "step_7", plugins=plugins)


def test_damaged_weights_are_refused_and_a_damaged_optimiser_is_no_hindrance(trained: Path, plugins: Plugins) -> None:
    for path in trained.glob("checkpoints/step_*/optimizer.safetensors"):
        path.write_bytes(b"damaged")
    assert load_run(trained, plugins=plugins).ask("text 1", "img1").choices
    for path in trained.glob("checkpoints/step_*/model.safetensors"):
        path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"model.safetensors does not agree with its hash"):
        load_run(trained, plugins=plugins)


def test_no_weights_are_drawn_where_a_checkpoint_fills_them() -> None:
    state = torch.get_rng_state()
    with WithoutRandomNumbers():
        layer = torch.nn.Linear(3, 2)
        table = torch.nn.Embedding(3, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert (layer.weight.shape, table.weight.shape) == ((2, 3), (3, 2))
    torch.nn.Linear(3, 2)
    assert not torch.equal(torch.get_rng_state(), state)


def ask(folder: Path, *arguments: str | Path) -> int:
    return main(["ask", str(folder), *map(str, arguments)])


def test_the_verb_prints_the_answers_and_their_boxes(
    installed: Path, places: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(installed, "--text", "text 1", "--image-id", "img1") == 0
    assert capsys.readouterr().out.splitlines() == [
        "here   0.750  [10, 10, 40, 30]",
        "there  0.250  [50, 60, 90, 95]",
    ]
    assert ask(installed, "--text", "text 1", "--image-id", "img1", "--json", "--top", "1") == 0
    assert json.loads(capsys.readouterr().out) == {
        "texts": ["text 1"],
        "images": [{"id": "img1", "width": 100, "height": 100}],
        "answer": "here",
        "choices": [{"text": "here", "probability": 0.75, "box": [10.0, 10.0, 40.0, 30.0]}],
    }


def test_the_box_and_the_runner_up_are_drawn(installed: Path, tmp_path: Path, places: None) -> None:
    Image.new("RGB", (100, 100), "white").save(tmp_path / "img1.png")
    arguments = ["--text", "text 1", "--image-id", "img1", "--draw", tmp_path / "out.png", "--top", "1"]
    assert ask(installed, *arguments, "--picture", tmp_path / "img1.png") == 0
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (100, 100)
        assert drawn.getpixel((10, 28)) == (0xE6, 0x19, 0x4B)
        assert drawn.getpixel((90, 90)) == (0x43, 0x63, 0xD8)
        assert drawn.getpixel((99, 5)) == (255, 255, 255)


WRONG = {
    "no question": ([], 2, "ask with --text and --image-id"),
    "no image": (["--text", "text 1"], 2, "ask with --text and --image-id"),
    "photograph": (["--text", "a", "--image", "photo.jpg"], 2, "a detector, and no installed plugin offers one"),
    "detector": (
        ["--text", "a", "--image-id", "b", "--detector-weights", "w"], 2, "--detector-weights and .* need a detector"
    ),
    "unknown detector": (["--text", "a", "--image", "p.jpg", "--detector", "eyes"], 4, "detector 'eyes'"),
    "both": (["--file", "x", "--text", "a"], 2, "leave out --text"),
    "attention to many": (["--file", "x", "--attention"], 2, "leave out --text.* --attention"),
    "no file": (["--file", "nowhere.jsonl"], 5, "nowhere.jsonl: cannot be read: No such file"),
    "no answers": (["--text", "a", "--image-id", "b", "--top", "0"], 2, "at least one answer"),
    "no picture": (["--text", "a", "--image-id", "b", "--draw", "o.png"], 2, "--draw needs the picture itself"),
    "two images": (["--text", "text 1", "--image-id", "img1", "--image-id", "img2"], 2, "takes 1 image, and got 2"),
    "unknown image": (["--text", "text 1", "--image-id", "img99"], 5, "did you mean 'img"),
    "checkpoint": (["--text", "text 1", "--image-id", "img1", "--checkpoint", "x"], 6, "no such checkpoint folder"),
    "nothing to draw": (
        ["--text", "text 1", "--image-id", "img1", "--draw", "o.png", "--picture", "p.png"], 2, "no box to draw"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_command_has_one_line_and_its_status(
    name: str,
    installed: Path,
    plugins: Plugins,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("vlrun.cli.detectors.create_plugins", lambda: plugins)  # none with a detector
    arguments, status, message = WRONG[name]
    assert ask(installed, *arguments) == status
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert re.search(message, captured.err)
    assert captured.out == ""


def test_ids_come_from_a_file_or_a_folder_of_pictures(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ToyTask, "asked_images", None)
    (tmp_path / "pictures").mkdir()
    for name in ("img2.jpg", "img1.PNG", "readme.txt"):
        (tmp_path / "pictures" / name).touch()
    (tmp_path / "ids.txt").write_text("img3\n\nimg4.jpg\n")
    for path, ids in (("pictures", ["img1", "img2"]), ("ids.txt", ["img3", "img4"])):
        asked = ask(installed, "--text", "text 1", "--image-ids", tmp_path / path, "--json")
        assert (asked, [image["id"] for image in json.loads(capsys.readouterr().out)["images"]]) == (0, ids)
    (tmp_path / "empty.txt").touch()
    assert ask(installed, "--text", "text 1", "--image-ids", tmp_path / "empty.txt") == 5
    assert "it names no images" in capsys.readouterr().err


def test_annotations_are_not_asked_for_and_files_of_the_model_are(
    trained: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_experiment(trained / "config.yaml", plugins=plugins).missing_files(), "the annotations are gone"
    assert load_run(trained, plugins=plugins).name == "match"
    vocabulary = RequiredFile(trained / "vocab.txt", "the vocabulary", "get it from its authors")
    monkeypatch.setattr("toy_world.ToyConfig.required_files", lambda config: [vocabulary])
    with pytest.raises(DataError, match=r"missing .*vocab.txt \(the vocabulary\): get it from its authors"):
        load_run(trained, plugins=plugins)
