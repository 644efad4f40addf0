"""Heads of runs: kept in checkpoints with their meaning, exported by neutral name, taken by the next run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import toy_world as toy
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toy_runs import experiment, losses, ranks_run, stop_after_step, weights

from vlrun import BackboneOutput, CheckpointError, Encoding, NamedHead
from vlrun.blocks.decoders import CLASSES, FEATURES, REGION_HEAD, WORD_HEAD, RegionHead, WordHead
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.weight_files import read_imported
from vlrun.errors import StoppedOnRequest
from vlrun.plugins.manager import Plugins
from vlrun.reporting.run_record import read_header
from vlrun.runs.export import export_weights
from vlrun.runs.run import RunResult, run_experiment

NUM_WORDS = 11


class WordyBackbone(toy.ToyBackbone):
    """The toy with word embeddings, which it offers for tying."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.wordpiece: Any = SimpleNamespace(size=NUM_WORDS, mask_id=4)
        with torch.random.fork_rng(devices=[]):
            self.words = nn.Embedding(NUM_WORDS, self.hidden_size)

    def word_table(self) -> nn.Parameter:
        return self.words.weight

    def forward(self, encoding: Encoding) -> BackboneOutput:
        output = super().forward(encoding)
        return BackboneOutput(
            output.text + self.words(encoding.token_ids),
            output.regions,
            output.pooled,
            output.text_mask,
            output.region_mask,
        )


class WordyHead(toy.ToyHead):
    """Guesses words and regions beside the class; their means make one number that is added to the logits."""

    def __init__(self, backbone: WordyBackbone) -> None:
        super().__init__(backbone.hidden_size)
        self.words = WordHead.of(backbone)
        self.regions = RegionHead(backbone.hidden_size, {FEATURES: 3, CLASSES: 4})

    def forward(self, output: BackboneOutput) -> Tensor:
        words = self.words(output.text).everywhere().square().mean((1, 2))
        guesses = self.regions(output.regions, output.pooled).values()
        numbers = words + sum(states.everywhere().square().mean((1, 2)) for states in guesses)
        return super().forward(output) + numbers.unflatten(0, (-1, 2))


class WordyTask(toy.ToyTask):
    classes = ("dog", "cat", "car", "person")

    def build_head(self, backbone: Any) -> nn.Module:
        return WordyHead(backbone)

    def named_heads(self, head: Any) -> Mapping[str, NamedHead]:
        return {WORD_HEAD: head.words.named("toy"), REGION_HEAD: head.regions.named({CLASSES: self.classes})}


@pytest.fixture(autouse=True)
def wordy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "ToyBackbone", WordyBackbone)
    monkeypatch.setattr(toy, "ToyTask", WordyTask)


def trained(world: Path, plugins: Plugins, *overrides: str) -> RunResult:
    return run_experiment(experiment(world, plugins, "train.epochs=1", *overrides), plugins=plugins)


def exported(world: Path, plugins: Plugins, run: RunResult) -> Any:
    return export_weights(
        RunFolder(run.folder), experiment(world, plugins, "train.epochs=1"), world / "toy.safetensors", plugins
    )


def stopped(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after_step(patch, 2)
        with pytest.raises(StoppedOnRequest):
            trained(world, plugins)


def test_a_checkpoint_stores_a_tied_table_once(world: Path, plugins: Plugins) -> None:
    run = trained(world, plugins)

    names = {name for name, tensor in weights(run).items() if tensor.shape == (NUM_WORDS, 5)}

    assert names == {"backbone.words.weight"}
    moments = load_file(run.folder / "checkpoints" / "last" / "optimizer.safetensors")
    assert {name.split("/")[0] for name, moment in moments.items() if moment.shape == (NUM_WORDS, 5)} == names


def test_the_heads_of_a_run_are_exported_with_what_they_mean(world: Path, plugins: Plugins) -> None:
    run = trained(world, plugins)

    report = exported(world, plugins, run)

    (tensors, metadata), ours = read_imported(report.out), weights(run)
    for name, module in ((WORD_HEAD, "words"), (REGION_HEAD, "regions")):
        part = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        prefix = f"heads.match.{module}."
        theirs = {key.removeprefix(prefix): value for key, value in ours.items() if key.startswith(prefix)}
        assert part.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in part.items())
    assert f"{WORD_HEAD}.decoder.weight" not in tensors
    assert metadata["heads"][WORD_HEAD] == {"words": NUM_WORDS, "vocabulary": "toy"}
    assert metadata["heads"][REGION_HEAD][CLASSES]["count"] == 4
    assert report.left_behind == ("backbone.itm (2 tensors)", "heads.match (2 tensors)")


def test_the_next_run_takes_every_head_that_it_wants(world: Path, plugins: Plugins) -> None:
    first = trained(world, plugins)

    second = trained(world, plugins, f"backbone.weights=run:{first.folder}", "train.learning_rate=1e-30")

    before, after = weights(first), weights(second)
    parts = ("backbone.words", "backbone.project", "heads.match.words", "heads.match.regions")
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert {name for name in before if name.startswith(parts)} <= same
    report = RunFolder(second.folder).read_data()["weights"]["report"]
    assert f"{WORD_HEAD}: taken, 5 tensors" in report
    assert f"{REGION_HEAD}: taken, 8 tensors" in report


def test_other_class_names_are_said_by_the_next_run(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained(world, plugins)
    monkeypatch.setattr(WordyTask, "classes", ("cat", "dog", "car", "person"))

    second = trained(world, plugins, f"backbone.weights=run:{first.folder}")

    report = RunFolder(second.folder).read_data()["weights"]["report"]
    assert any("other names of classes in the file" in line for line in report)


def test_other_class_names_are_refused_by_a_run_that_goes_on(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(world, plugins, monkeypatch)
    monkeypatch.setattr(WordyTask, "classes", ("cat", "dog", "car", "person"))

    with pytest.raises(CheckpointError, match="region_head classes was"):
        run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins, continues=True)


def test_a_checkpoint_without_names_of_heads_keeps_them_back(world: Path, plugins: Plugins) -> None:
    """As those of earlier versions are."""
    run = trained(world, plugins)
    checkpoint = run.folder / "checkpoints" / "last"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["named_heads.json"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    (checkpoint / "named_heads.json").unlink()

    report = exported(world, plugins, run)

    assert not [name for name in read_imported(report.out)[0] if name.startswith((WORD_HEAD, REGION_HEAD))]
    assert "heads.match (15 tensors)" in report.left_behind


def test_a_head_that_two_tasks_have_stays_behind(world: Path, plugins: Plugins) -> None:
    """Which of the two would be meant?"""
    task = "{name: match, label: %s, dataset: {name: toys, annotations: ., features: toys.lmdb, evaluate: [val]}}"
    two = f"tasks=[{task % 'one'}, {task % 'two'}]"
    run = trained(world, plugins, two, "published=null")
    loaded = experiment(world, plugins, "train.epochs=1", two, "published=null")

    report = export_weights(RunFolder(run.folder), loaded, world / "toy.safetensors", plugins)

    assert not [name for name in read_imported(report.out)[0] if name.startswith((WORD_HEAD, REGION_HEAD))]
    assert report.left_behind == (
        "backbone.itm (2 tensors)",
        "heads.one (15 tensors)",
        "heads.two (15 tensors)",
    )


def test_tied_weights_train_alike_on_one_and_two_processes(world: Path, plugins: Plugins) -> None:
    options = ["train.epochs=2", "train.micro_batches=2"]
    alone = ranks_run(world, plugins, 1, *options)[0][0]
    together = ranks_run(world, plugins, 2, *options)[0][0]

    ours, theirs = weights(alone), weights(together)
    assert losses(alone) == pytest.approx(losses(together), rel=1e-6)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_run_that_goes_on_ends_with_the_same_tied_weights(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(world, plugins)
    stopped(world, plugins, monkeypatch)

    resumed = run_experiment(experiment(world, plugins, "train.epochs=1"), plugins=plugins, continues=True)

    assert losses(whole) == losses(resumed)
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())


@pytest.fixture
def start(world: Path) -> Path:
    """Weights without the part that sees regions, as BERT's are."""
    state = WordyBackbone(toy.ToyConfig(name="toy")).state_dict()
    tensors = {name: value.clone() for name, value in state.items() if not name.startswith("project.")}
    facts = {"backbone": "toy", "format": "bert-toy", "partial": True, "random": ["project"]}
    save_file(tensors, world / "bert.safetensors", {"vlrun": json.dumps(facts)})
    return world / "bert.safetensors"


def test_a_run_says_what_its_start_leaves_random(world: Path, plugins: Plugins, start: Path) -> None:
    run = trained(world, plugins, f"backbone.weights={start}", "reporters=[{name: html}]")

    record = RunFolder(run.folder).read_data()["weights"]
    assert (record["format"], record["random"]) == ("bert-toy", ["project"])
    line = "project: 2 tensors start random, as they do from every file of format 'bert-toy'"
    assert line in record["report"]
    assert ("weights", line) in read_header(run.folder)


def test_a_start_without_images_has_no_matching_head_for_zero_shot(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, start: Path
) -> None:
    """BERT's own is of next sentences."""
    monkeypatch.setattr(WordyTask, "requires_matching_head", True)

    with pytest.raises(CheckpointError, match="does not have it, for it is a start without images"):
        trained(world, plugins, f"backbone.weights={start}")
