"""Hard negatives: what is drawn and kept, the file, mining in a run on any number of processes, and the command."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import matching_world as toy
import numpy as np
import pytest
import torch
from matching_world import experiment
from toy_runs import StopAfter, stop_after_step
from toy_runs import weights as load_weights

from vlrun import DataError, UsageError
from vlrun.cli import main
from vlrun.config.experiment import Experiment
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import open_run_folder
from vlrun.errors import StoppedOnRequest
from vlrun.features.store import RegionFeatureStore
from vlrun.plugins.manager import Plugins
from vlrun.runs import run as runs
from vlrun.runs.run import run_experiment
from vlrun.seeds import derive_seed
from vlrun.testing import run_ranks
from vlrun_retrieval import mining
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.hard_negatives import (
    HardNegatives,
    draw_candidates,
    hardest,
    read_facts,
    read_negatives,
    write_negatives,
)


def pool_of(owner: list[int]) -> CandidatePool:
    images = tuple(f"i{row}" for row in range(max(owner) + 1))
    names = tuple(f"t{row}" for row in range(len(owner)))
    return CandidatePool(images, names, names, np.array(owner))


POOL = pool_of([0, 0, 1, 2, 2, 2, 3])


def some_negatives(pool: CandidatePool, keep: int = 3) -> HardNegatives:
    texts = [draw_candidates(pool, 1, 0, "image", row, keep) for row in range(len(pool.image_ids))]
    images = [pool.owner[draw_candidates(pool, 1, 0, "text", row, keep)] for row in range(len(pool.texts))]
    return HardNegatives(np.array(texts, np.int32), np.array(images, np.int32))


def test_a_pool_knows_the_texts_of_each_image() -> None:
    shuffled = pool_of([2, 0, 1, 2, 0])
    assert [shuffled.texts_of(image).tolist() for image in range(3)] == [[1, 4], [2], [0, 3]]
    assert POOL.fingerprint != shuffled.fingerprint


@pytest.mark.parametrize("kind", ["image", "text"])
def test_candidates_are_of_other_images_and_have_an_address(kind: Any) -> None:
    count = len(POOL.image_ids) if kind == "image" else len(POOL.texts)
    for anchor in range(count):
        own = anchor if kind == "image" else POOL.owner[anchor]
        drawn = draw_candidates(POOL, 7, 2, kind, anchor, 400)
        assert own not in POOL.owner[drawn]
        assert set(drawn) == set(np.flatnonzero(POOL.owner != own)), "all others can be drawn"
        assert (drawn == draw_candidates(POOL, 7, 2, kind, anchor, 400)).all()
        assert (drawn != draw_candidates(POOL, 7, 3, kind, anchor, 400)).any()
        assert (drawn != draw_candidates(POOL, 8, 2, kind, anchor, 400)).any()


def test_one_image_alone_has_no_negatives() -> None:
    with pytest.raises(DataError, match="all 2 texts are of image 'i0'"):
        draw_candidates(pool_of([0, 0]), 0, 0, "image", 0, 4)


def test_the_hardest_come_first_and_of_equal_ones_the_first() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert hardest(scores, 3).tolist() == [[1, 2, 3], [0, 1, 2]]


def test_a_file_fits_the_same_pool_in_another_order(tmp_path: Path) -> None:
    path, found = tmp_path / "n.npz", some_negatives(POOL)
    write_negatives(path, POOL, found, {"run": "r"})
    assert read_facts(path) == {"run": "r"}
    images, texts = [3, 1, 0, 2], [6, 0, 2, 5, 1, 4, 3]
    place = {image: row for row, image in enumerate(images)}
    other = CandidatePool(
        tuple(POOL.image_ids[row] for row in images),
        tuple(POOL.text_ids[row] for row in texts),
        tuple(POOL.texts[row] for row in texts),
        np.array([place[POOL.owner[row]] for row in texts]),
    )
    read = read_negatives(path, other)
    for row, image in enumerate(images):
        names = [other.text_ids[text] for text in read.texts_of_images[row]]
        assert names == [POOL.text_ids[text] for text in found.texts_of_images[image]]
    for row, text in enumerate(texts):
        names = [other.image_ids[image] for image in read.images_of_texts[row]]
        assert names == [POOL.image_ids[image] for image in found.images_of_texts[text]]


def test_a_file_of_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "n.npz"
    write_negatives(path, POOL, some_negatives(POOL), {})
    with pytest.raises(DataError, match=r"1 images have no negatives: i4(.|\n)*1 texts have no negatives: t7"):
        read_negatives(path, pool_of([0, 0, 1, 2, 2, 2, 3, 4]))
    with pytest.raises(DataError, match="1 texts are unknown: t6"):
        read_negatives(path, pool_of([0, 0, 1, 2, 2, 3]))
    with pytest.raises(DataError, match="belongs to its own image"):
        read_negatives(path, pool_of([3, 3, 2, 1, 1, 1, 0]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no archive"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "n.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"n.npz: damaged"):
        read_negatives(tmp_path / "n.npz", POOL)
    with pytest.raises(DataError, match="mine-negatives"):
        read_negatives(tmp_path / "other.npz", POOL)


def mined_of(
    caption_world: Path, caption_plugins: Plugins, *overrides: str, runs_root: str = "runs", **options: Any
) -> Path:
    loaded = experiment(caption_world, caption_plugins, "tasks.0.mines=true", *overrides, runs_root=runs_root)
    return run_experiment(loaded, plugins=caption_plugins, **options).folder


def tables(folder: Path, epoch: int) -> dict[str, Any]:
    return read_arrays(folder / "negatives" / f"matching_epoch{epoch}.npz")


def read_arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return dict(file)


def test_mining_keeps_the_best_of_what_was_drawn(caption_world: Path, caption_plugins: Plugins) -> None:
    folder = mined_of(caption_world, caption_plugins, "train.learning_rate=1e-30")
    loaded = experiment(caption_world, caption_plugins)
    torch.manual_seed(derive_seed(5, "weights"))
    backbone = toy.CaptionBackbone(loaded.backbone)  # type: ignore[arg-type]
    dataset = toy.Captions(loaded.tasks[0].dataset, "train")
    task = toy.ToyMatching(loaded.tasks[0])  # type: ignore[arg-type]
    scores = toy.brute_force(backbone, task, RegionFeatureStore(caption_world / "data" / "toys.lmdb").read, dataset)
    pool, found = CandidatePool.of(dataset), tables(folder, 0)
    for image in range(len(pool.image_ids)):
        drawn = draw_candidates(pool, 5, 0, "image", image, 6)
        best = sorted((scores[image, text] for text in drawn), reverse=True)[:2]
        kept = [scores[image, text] for text in found["texts_of_images"][image]]
        assert kept == pytest.approx(best, abs=1e-6)
    for text in range(len(pool.texts)):
        drawn = pool.owner[draw_candidates(pool, 5, 0, "text", text, 6)]
        best = sorted((scores[image, text] for image in drawn), reverse=True)[:2]
        assert [scores[image, text] for image in found["images_of_texts"][text]] == pytest.approx(best, abs=1e-6)


def test_any_number_of_processes_mines_the_same(
    caption_world: Path,
    caption_plugins: Plugins,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mining, "_ANCHORS_PER_BLOCK", 2)
    alone = tables(mined_of(caption_world, caption_plugins), 0)
    for world_size in (2, 3):
        loaded = experiment(caption_world, caption_plugins, "tasks.0.mines=true", runs_root=f"runs{world_size}")

        def body(ranks: Ranks, loaded: Experiment = loaded) -> Any:
            runs.join_ranks = lambda timeout, threads: nullcontext(ranks)
            return run_experiment(loaded, plugins=caption_plugins).folder

        folders = run_ranks(body, caption_world, world_size)
        found = tables(folders[0], 0)
        assert all((found[name] == alone[name]).all() for name in ("texts_of_images", "images_of_texts"))


def test_a_resumed_epoch_reads_its_negatives_back(
    caption_world: Path,
    caption_plugins: Plugins,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = mined_of(caption_world, caption_plugins, runs_root="whole")
    with monkeypatch.context() as patch:
        stop_after_step(patch, 1)
        with pytest.raises(StoppedOnRequest):
            mined_of(caption_world, caption_plugins)
    latest = caption_world / "runs" / "captions" / "latest"
    before = (latest / "negatives" / "matching_epoch0.npz").stat().st_mtime_ns
    folder = mined_of(caption_world, caption_plugins, continues=True)
    assert (folder / "negatives" / "matching_epoch0.npz").stat().st_mtime_ns == before
    for epoch in (0, 1):
        first, second = tables(whole, epoch), tables(folder, epoch)
        assert all((first[name] == second[name]).all() for name in first)


def test_every_epoch_keeps_its_negatives_and_no_blocks_stay(caption_world: Path, caption_plugins: Plugins) -> None:
    folder = mined_of(caption_world, caption_plugins, "train.epochs=3")
    assert sorted(path.name for path in (folder / "negatives").iterdir()) == [
        f"matching_epoch{epoch}.npz" for epoch in range(3)
    ]


def test_mining_that_was_killed_goes_on_with_its_blocks(
    caption_world: Path, caption_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mining, "_ANCHORS_PER_BLOCK", 2)
    whole = mined_of(caption_world, caption_plugins, runs_root="whole")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "stop_on_signals", lambda: nullcontext(StopAfter(14)))
        with pytest.raises(StoppedOnRequest, match="during mining"):
            mined_of(caption_world, caption_plugins)
    latest = caption_world / "runs" / "captions" / "latest"
    finished = list((latest / "negatives").glob(".blocks-*/*.npz"))
    assert finished
    asked: list[int] = []
    original = mining.Mining.fill

    def counting(self: Any, table: Any, kind: str, anchors: Any) -> Any:
        asked.append(len(anchors))
        return original(self, table, kind, anchors)

    with monkeypatch.context() as patch:
        patch.setattr(mining.Mining, "fill", counting)
        folder = mined_of(caption_world, caption_plugins, "train.epochs=2", continues=True)
    blocks = 4 + 7  # of seven images and thirteen texts, two at once
    assert len(asked) == 2 * blocks - len(finished)
    for epoch in (0, 1):
        first, second = tables(whole, epoch), tables(folder, epoch)
        assert all((first[name] == second[name]).all() for name in first)


def test_the_command_writes_a_pool_for_the_training_split(
    caption_world: Path,
    caption_plugins: Plugins,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run_experiment(experiment(caption_world, caption_plugins), plugins=caption_plugins).folder
    monkeypatch.setattr("vlrun.cli.arguments.create_plugins", lambda: caption_plugins)
    out = caption_world / "pool.npz"
    verb = ["mine-negatives", str(folder)]
    assert main([*verb, "--candidates", "6", "--keep", "2", "--out", str(out)]) == 0
    assert f"{{name: pool, file: {out}}}" in capsys.readouterr().out
    pool = CandidatePool.of(toy.Captions(experiment(caption_world, caption_plugins).tasks[0].dataset, "train"))
    assert read_negatives(out, pool).images_of_texts.shape == (len(pool.texts), 2)
    facts = read_facts(out)
    assert (facts["split"], facts["seed"], facts["keep"]) == ("train", 5, 2)
    assert facts["checkpoint"].startswith("best (step ")
    assert main([*verb, "--candidates", "2", "--keep", "3"]) == UsageError.exit_status
    assert "keep at least 1, at most all" in capsys.readouterr().err
    assert main([*verb, "--out", "pool.pkl"]) == UsageError.exit_status
    assert "negatives are a .npz file" in capsys.readouterr().err


def test_a_table_that_points_nowhere_is_damaged(tmp_path: Path) -> None:
    found = some_negatives(POOL)
    for wrong in (found.texts_of_images + 100, -found.texts_of_images - 1, found.texts_of_images[0]):
        write_negatives(tmp_path / "n.npz", POOL, HardNegatives(wrong, found.images_of_texts), {})
        with pytest.raises(DataError, match=r"n\.npz: damaged"):
            read_negatives(tmp_path / "n.npz", POOL)


def test_a_place_that_cannot_be_written_is_told_before_and_after(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write hard negatives"):
        write_negatives(tmp_path / "file" / "n.npz", POOL, some_negatives(POOL), {})


def test_a_pool_names_an_id_that_is_there_twice(caption_world: Path, caption_plugins: Plugins) -> None:
    dataset = toy.Captions(experiment(caption_world, caption_plugins).tasks[0].dataset, "train")
    dataset.examples.append(dataset.examples[3])
    with pytest.raises(DataError, match=f"1 ids are those of several texts: {dataset.examples[3].id}"):
        CandidatePool.of(dataset)


JOINT = """\
seed: 5
backbone: {name: captioned}
tasks:
  - name: matching
    mines: true
    batch_size: 7
    sampling_weight: 2
    dataset: {name: captions, annotations: ., features: toys.lmdb, evaluate: [val]}
  - name: matching
    label: other
    mines: true
    dataset: {name: captions, annotations: ., features: toys.lmdb, evaluate: [test]}
train:
  epochs: 3
  batch_size: 4
  learning_rate: 1e-2
  workers: 0
  sampling: {name: weights}
  checkpoint_every: 5
  keep_checkpoints: 1
reporters: [{name: jsonl}]
"""


@pytest.mark.parametrize("signalled", [2, 4, 6, 9])
def test_joint_training_mines_with_the_same_weights_wherever_it_is_resumed(
    caption_world: Path, caption_plugins: Plugins, monkeypatch: pytest.MonkeyPatch, signalled: int
) -> None:
    (caption_world / "captions.yaml").write_text(JOINT)
    whole = run_experiment(experiment(caption_world, caption_plugins, runs_root="w"), plugins=caption_plugins)
    loaded = experiment(caption_world, caption_plugins)
    with monkeypatch.context() as patch:
        stop_after_step(patch, signalled)
        with pytest.raises(StoppedOnRequest):
            run_experiment(loaded, plugins=caption_plugins)
    latest = open_run_folder(caption_world / "runs" / "captions")
    assert latest.read_status()["step"] >= signalled, "no step is lost"
    resumed = run_experiment(loaded, plugins=caption_plugins, continues=True)
    first, second = (load_weights(result) for result in (whole, resumed))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    names = sorted(path.name for path in (whole.folder / "negatives").iterdir())
    assert names == sorted(path.name for path in (resumed.folder / "negatives").iterdir())
    for name in names:
        ours, theirs = (read_arrays(result.folder / "negatives" / name) for result in (whole, resumed))
        assert all((ours[key] == theirs[key]).all() for key in ours)


def test_the_same_negatives_are_mined_by_one_process_at_a_time(tmp_path: Path) -> None:
    alone = Ranks(0, 1, torch.device("cpu"))
    folder = tmp_path / ".blocks-1"
    with (
        mining._alone(folder, alone),
        pytest.raises(DataError, match="another process is mining this"),
        mining._alone(folder, alone),
    ):
        pass
    with mining._alone(folder, alone):
        pass


def test_who_mines_keeps_others_out(
    caption_world: Path, caption_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, kept_out = mining._mine_kind, []

    def meanwhile(run: Any, work: Any, kind: Any, count: int, folder: Path, progress: Any) -> Any:
        with pytest.raises(DataError, match="another process is mining this"), mining._alone(folder, run.ranks):
            pass
        kept_out.append(kind)
        return original(run, work, kind, count, folder, progress)

    monkeypatch.setattr(mining, "_mine_kind", meanwhile)
    mined_of(caption_world, caption_plugins, "train.epochs=1")
    assert kept_out == ["image", "text"]


def test_a_block_with_a_changed_bit_is_mined_again(tmp_path: Path) -> None:
    block = tmp_path / "image-2-0.npz"
    np.savez(block, table=np.arange(64, dtype=np.int32))
    assert mining._is_whole(block)
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 1
    block.write_bytes(content)
    assert not mining._is_whole(block)
    assert not mining._is_whole(tmp_path / "image-2-1.npz")
