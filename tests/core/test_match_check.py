"""``weights check --experiment``: texts have to match their own image better than another one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world as toy
from toy_runs import experiment

from vlrun import Encoding, Example, Pair, RegionBatch
from vlrun.cli import main
from vlrun.engine.weight_check import check_file
from vlrun.engine.weight_files import write_imported
from vlrun.errors import CheckpointError, DataError, UsageError
from vlrun.plugins.manager import Plugins
from vlrun.runs.match_check import check_matching

OWN, OTHER = 1, 2


@pytest.fixture(autouse=True)
def seeing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy encoder tells the network whether the image is the one that the text is about."""
    plain = toy.ToyEncoder.__call__

    def encode(self: toy.ToyEncoder, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        encoding = plain(self, pairs, regions)
        own = [pair.image_id == f"img{int(pair.text.split()[1]) % toy.NUM_IMAGES}" for pair in pairs]
        encoding.token_ids[:, 0] = torch.tensor([OWN if is_own else OTHER for is_own in own])
        return encoding

    monkeypatch.setattr(toy.ToyEncoder, "__call__", encode)


def weights(folder: Path, direction: float, **changes: Any) -> Path:
    """Weights whose pooled output grows with the token; their head likes small ones, or large ones, or neither."""
    tensors = toy.ToyBackbone(toy.ToyConfig(name="toy")).state_dict()
    tensors["project.weight"].zero_()
    tensors["project.bias"].fill_(1.0)
    tensors["itm.weight"] = torch.stack([torch.ones(5), -torch.ones(5)]) * direction
    tensors["itm.bias"].zero_()
    path = folder / "toy.safetensors"
    write_imported(path, {k: v for k, v in tensors.items() if k not in changes}, {"backbone": "toy"}, ())
    return path


def check(world: Path, plugins: Plugins, path: Path, **options: Any) -> list[str]:
    return check_matching(path, experiment(world, plugins), plugins, **options)


def test_a_head_that_knows_its_images_passes(world: Path, plugins: Plugins) -> None:
    assert check(world, plugins, weights(world, 1.0)) == [
        "features: not stated; the weights were trained on: not stated",
        "matching: 13 of 13 texts of toys val match their own image better than another one; 12 needed (a one-sided "
        "sign test at 1 %)",
    ]


def test_the_split_and_the_number_of_texts_can_be_chosen(world: Path, plugins: Plugins) -> None:
    _, line = check(world, plugins, weights(world, 1.0), split="test", most=5)

    assert line.startswith("matching: 5 of 5 texts of toys test")
    assert line.endswith("3 needed (a majority; so few texts prove little)")


def test_a_head_the_wrong_way_round_is_called_so(world: Path, plugins: Plugins) -> None:
    with pytest.raises(CheckpointError, match=r"toy\.safetensors: 0 of 13 texts[^$]*swap the two rows"):
        check(world, plugins, weights(world, -1.0))


def test_a_head_that_says_the_same_of_all_is_no_better_than_chance(world: Path, plugins: Plugins) -> None:
    with pytest.raises(CheckpointError, match=r"0 of 13 texts[^$]*no better than chance[^$]*features: not stated"):
        check(world, plugins, weights(world, 0.0))


def test_weights_without_a_matching_head_are_not_judged_by_a_random_one(world: Path, plugins: Plugins) -> None:
    path = weights(world, 1.0, **{"itm.weight": None, "itm.bias": None})

    with pytest.raises(CheckpointError, match=r"has no matching head \(itm\.weight, itm\.bias\)"):
        check(world, plugins, path)


def test_texts_about_two_images_are_no_pairs(world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        toy.ToyDataset, "__getitem__", lambda self, index: Example(str(index), "text 1", ("img1", "img2"), 0)
    )

    with pytest.raises(DataError, match="val: no two texts about one image each"):
        check(world, plugins, weights(world, 1.0))


def test_an_unknown_task_and_no_texts_are_usage_errors(world: Path, plugins: Plugins) -> None:
    path = weights(world, 1.0)

    with pytest.raises(UsageError, match=r"no task 'other' in this experiment \(there is: match\)"):
        check(world, plugins, path, label="other")
    with pytest.raises(UsageError, match="--pairs 0: at least one text"):
        check(world, plugins, path, most=0)


def test_nothing_to_compare_is_an_error_only_if_it_is_all_that_was_asked_for(world: Path, plugins: Plugins) -> None:
    path = weights(world, 1.0)

    with pytest.raises(CheckpointError, match="holds no numbers to compare"):
        check_file(path, plugins)
    hash_line, *_, other = check_file(path, plugins, must_compare=False)
    assert hash_line.startswith("hash")
    assert other.startswith("forward pass: not compared: the file holds no numbers")


def test_the_command_looks_at_an_experiment_and_takes_its_values(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vlrun.plugins.manager.create_plugins", lambda: plugins)
    rest = ["--experiment", str(world / "toy.yaml")]
    values = [f"data_root={world / 'data'}", f"runs_root={world / 'runs'}"]

    status = main(["weights", "check", str(weights(world, 1.0)), *values, *rest])
    right = capsys.readouterr().out.splitlines()
    refused = main(["weights", "check", str(weights(world, -1.0)), *values, *rest])

    assert (status, refused) == (0, 6)
    assert right[0].startswith("hash")
    assert right[-1].startswith("matching: 13 of 13 texts of toys val match their own image")
    assert "the head is the wrong way round" in capsys.readouterr().err


def test_values_without_an_experiment_are_a_usage_error(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "check", str(weights(world, 1.0)), "train.epochs=1"]) == 2
    assert "values are laid over an experiment: --experiment EXPERIMENT" in capsys.readouterr().err
