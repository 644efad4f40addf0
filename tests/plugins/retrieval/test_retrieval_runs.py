"""Whole runs of the task on the core's toy backbone: any number of processes, stopped and continued."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world as toy
from toy_runs import experiment, lines, losses, ranks_run, stop_after_step, weights

from vlrun import Encoding, Pair, RegionBatch, run_experiment
from vlrun.data.annotations import write_annotations
from vlrun.errors import StoppedOnRequest
from vlrun.foreign.yaml import dump_yaml
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun_retrieval.records import ImageCaption

SIZES = {"train": 23, "val": 13}
MINED = "tasks.0.negatives={name: mined, candidates: 6, keep: 2, every: 2, from_epoch: 1}"
KINDS = {
    "in-batch triple": ["tasks.0.negatives={name: in-batch}"],
    "mined triple": [MINED],
    "mined four-way": [MINED, "tasks.0.loss=four-way"],
}

kinds = pytest.mark.parametrize("kind", KINDS)


def captions(split: str) -> list[dict[str, Any]]:
    images = sorted(f"img{number % toy.NUM_IMAGES}" for number in range(SIZES[split]))
    return [
        {"id": f"{split}{number}", "text": f"caption {number}", "image": image, "position": 0}
        for number, image in enumerate(images)
    ]


@pytest.fixture(autouse=True)
def any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy backbone reads only the number in a text; here every text has one."""
    encode = toy.ToyEncoder.__call__

    def encode_any(encoder: Any, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        return encode(encoder, [Pair(f"text {sum(pair.text.encode())}", pair.image_id) for pair in pairs], regions)

    monkeypatch.setattr(toy.ToyEncoder, "__call__", encode_any)


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    core = [point for point in entry_points(group="vlrun") if point.name == "core"]
    ours = EntryPoint("retrieval", "vlrun_retrieval.plugin", "vlrun")
    return create_plugins([*core, ours, EntryPoint("toy", "toy_world", "vlrun")])


@pytest.fixture
def world(tmp_path: Path) -> Path:
    toy.write_toy_store(tmp_path / "data" / "features")
    for split in SIZES:
        write_annotations(tmp_path / "data" / "annotations" / f"{split}.jsonl", captions(split), ImageCaption)
    dataset = {
        "name": "flickr30k",
        "annotations": "annotations",
        "features": "features",
        "evaluate": ["val"],
    }
    train = {"epochs": 4, "batch_size": 6, "learning_rate": 0.01, "workers": 0, "log_every": 1, "threads": 1}
    content = {
        "seed": 5,
        "backbone": {"name": "toy", "dropout": 0.0},
        "tasks": [{"name": "retrieval", "dataset": dataset}],
        "train": train,
        "reporters": [{"name": "jsonl"}],
    }
    (tmp_path / "toy.yaml").write_text(dump_yaml(content))
    return tmp_path


@kinds
def test_two_ranks_and_loader_workers_train_on_the_same_pairs(world: Path, plugins: Plugins, kind: str) -> None:
    alone = run_experiment(experiment(world, plugins, *KINDS[kind]), plugins=plugins)
    (folder, _), _ = ranks_run(world, plugins, 2, *KINDS[kind], "train.workers=1")
    assert len(losses(alone)) == 12
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-5)


@pytest.mark.parametrize("signalled", [6, 7, 10], ids=["before it mines", "epoch of it", "epoch after it"])
def test_a_stopped_run_continues_with_the_negatives_it_had(
    world: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, signalled: int
) -> None:
    unbroken = run_experiment(experiment(world, plugins, MINED), plugins=plugins)
    broken = experiment(world, plugins, MINED, runs_root="broken")
    with monkeypatch.context() as patch:
        stop_after_step(patch, signalled)
        with pytest.raises(StoppedOnRequest, match="--resume"):
            run_experiment(broken, plugins=plugins)
    status = json.loads((world / "broken" / "toy" / "latest" / "status.json").read_text())
    assert status["step"] == signalled  # epochs have three steps, and the first mining is before the seventh
    resumed = run_experiment(broken, plugins=plugins, continues=True)
    assert losses(resumed) == losses(unbroken)
    assert all(torch.equal(tensor, weights(unbroken)[name]) for name, tensor in weights(resumed).items())


def test_mining_is_written_into_the_run_folder_and_serves_as_a_pool_file(world: Path, plugins: Plugins) -> None:
    mined = run_experiment(experiment(world, plugins, MINED, "train.epochs=5"), plugins=plugins)
    found = sorted(path.name for path in (mined.folder / "negatives").iterdir())
    assert found == ["retrieval_epoch2.npz", "retrieval_epoch4.npz"]
    shutil.copy(mined.folder / "negatives" / found[-1], world / "data" / "hard.npz")
    pool = "tasks.0.negatives={name: pool, file: hard.npz}"
    result = run_experiment(experiment(world, plugins, pool, runs_root="pool"), plugins=plugins)
    assert not (result.folder / "negatives").exists()
    steps = lines(result, "step")
    assert len(steps) == 12
    assert set(steps[0]["losses"]) == {"matched", "wrong_caption", "wrong_image"}
