"""Scoring whole pools: exact, the same for any number of processes, continued after a kill, with its protocol."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import matching_world as toy
import numpy as np
import pytest
import torch
from matching_world import experiment
from toy_runs import StopAfter
from toy_world import NUM_IMAGES, image_features

from vlrun import CheckpointError, DataError
from vlrun.config.experiment import Experiment
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import OpenedRun, open_run_folder
from vlrun.errors import StoppedOnRequest
from vlrun.features.store import RegionFeatureStore
from vlrun.features.writer import write_store
from vlrun.interfaces.reporter import Reporter, Reporters
from vlrun.plugins.manager import Plugins
from vlrun.runs import run as runs
from vlrun.runs.again import evaluate_run, score_file
from vlrun.runs.run import RunResult, run_experiment
from vlrun.testing import run_ranks
from vlrun_retrieval import scorer, sizes
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.matrix import TilePlan, tile_checksum
from vlrun_retrieval.metric import best_candidates, usable_protocols
from vlrun_retrieval.ranking import PROTOCOLS, evaluate_retrieval
from vlrun_retrieval.scorer import PairScorer


def matrix(result: RunResult | Path, split: str = "test") -> np.ndarray[Any, Any]:
    folder = result if isinstance(result, Path) else result.folder
    scores: np.ndarray[Any, Any] = np.load(folder / "scores" / f"matching_{split}.npy")
    return scores


def values(result: RunResult, split: str = "test") -> dict[str, float]:
    return {row.score.name: row.score.value for row in result.rows if row.split == split}


def trained_model(caption_world: Path, caption_plugins: Plugins, result: RunResult, *overrides: str) -> Any:
    """The backbone of the best checkpoint, rebuilt from its file."""
    from safetensors.torch import load_file

    loaded = experiment(caption_world, caption_plugins, *overrides)
    backbone = toy.CaptionBackbone(loaded.backbone)  # type: ignore[arg-type]
    tensors = load_file(result.folder / "checkpoints" / "best" / "model.safetensors")
    own = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    own.update({f"head.{name.rpartition('.')[2]}": t for name, t in tensors.items() if ".layer." in name})
    backbone.load_state_dict(own)
    return backbone


def test_the_matrix_is_that_of_every_pair_on_its_own(caption_world: Path, caption_plugins: Plugins) -> None:
    result = run_experiment(experiment(caption_world, caption_plugins), plugins=caption_plugins)
    loaded = experiment(caption_world, caption_plugins)
    task, dataset = toy.ToyMatching(loaded.tasks[0]), toy.Captions(loaded.tasks[0].dataset, "test")  # type: ignore[arg-type]
    store = RegionFeatureStore(caption_world / "data" / "toys.lmdb")
    expected = toy.brute_force(trained_model(caption_world, caption_plugins, result), task, store.read, dataset)
    assert matrix(result) == pytest.approx(expected, abs=2e-6)
    found = evaluate_retrieval(matrix(result), CandidatePool.of(dataset).owner)
    scores = values(result)
    assert scores["IR R@1"] == found.image_retrieval.r1
    assert scores["TR R@5"] == found.text_retrieval.r5
    assert scores["rsum"] == pytest.approx(6 * scores["mean recall"])
    assert scores["TR mean rank"] == found.text_retrieval.mean_rank


def test_any_number_of_processes_gives_the_same_matrix(caption_world: Path, caption_plugins: Plugins) -> None:
    run_experiment(
        experiment(caption_world, caption_plugins, "train.epochs=0", runs_root="one"), plugins=caption_plugins
    )
    alone = matrix(caption_world / "one" / "captions" / "latest")
    for world_size in (2, 3):
        loaded = experiment(caption_world, caption_plugins, "train.epochs=0", runs_root=f"runs{world_size}")

        def body(ranks: Ranks, loaded: Experiment = loaded) -> Any:
            runs.join_ranks = lambda timeout, threads: nullcontext(ranks)
            result = run_experiment(loaded, plugins=caption_plugins)
            return result.folder, values(result)

        found = run_ranks(body, caption_world, world_size)
        assert (matrix(found[0][0]) == alone).all(), "to the last bit"
        assert all(scores == found[0][1] for _, scores in found)


def test_a_stopped_evaluation_continues_to_the_same_matrix(
    caption_world: Path, caption_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = experiment(caption_world, caption_plugins, "train.epochs=0", "tasks.0.dataset.evaluate=[test]")
    whole = matrix(
        run_experiment(
            experiment(caption_world, caption_plugins, "train.epochs=0", runs_root="w"), plugins=caption_plugins
        )
    )
    with monkeypatch.context() as patch:
        patch.setattr(runs, "stop_on_signals", lambda: nullcontext(StopAfter(4)))
        with pytest.raises(StoppedOnRequest):
            run_experiment(loaded, plugins=caption_plugins)
    latest = caption_world / "runs" / "captions" / "latest"
    done = ~np.isnan(matrix(latest))
    assert 0 < done.sum() < done.size
    asked: list[int] = []
    original = PairScorer.all_pairs

    def counting(self: Any, texts: Any, images: Any) -> Any:
        found = original(self, texts, images)
        asked.append(found.numel())
        return found

    monkeypatch.setattr(PairScorer, "all_pairs", counting)
    result = run_experiment(loaded, plugins=caption_plugins, continues=True)
    assert sum(asked) == done.size - done.sum(), "only what was missing is scored"
    assert (matrix(result) == whole).all()


def test_an_evaluation_of_the_same_model_scores_nothing_again(
    caption_world: Path, caption_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_experiment(experiment(caption_world, caption_plugins), plugins=caption_plugins)
    folder = open_run_folder(result.folder)
    again = experiment(caption_world, caption_plugins, "train.epochs=0", "tasks.0.protocols=[all,first-caption]")
    monkeypatch.setattr(PairScorer, "all_pairs", lambda *_: pytest.fail("scored again"))
    ranks = Ranks(0, 1, torch.device("cpu"))
    rows = evaluate_run(OpenedRun(folder, again, caption_plugins), ranks, Reporters([]))
    found = {row.score.name: row.score for row in rows if row.split == "test"}
    assert found["IR R@1"].value == values(result)["IR R@1"]
    assert found["TR R@1 [first-caption]"].protocol["candidate pool"] == "5 images, 5 texts"


def test_a_validation_of_the_first_images_says_so_and_the_end_has_them_all(
    caption_world: Path, caption_plugins: Plugins
) -> None:
    result = run_experiment(
        experiment(caption_world, caption_plugins, "tasks.0.validation_images=3"), plugins=caption_plugins
    )
    history = json.loads((result.folder / "evaluations.json").read_text())
    protocol = history[0]["scores"][0]["protocol"]
    assert protocol["candidate pool"] == "3 images, 6 texts"
    assert "first 3 images" in protocol["left out"]
    end = next(row.score for row in result.rows if row.split == "val")
    assert end.protocol["candidate pool"] == "6 images, 12 texts"
    assert "left out" not in end.protocol
    assert sorted(path.name for path in (result.folder / "scores").glob("[!.]*")) == [
        "matching_test.crc",
        "matching_test.json",
        "matching_test.npy",
        "matching_val.crc",
        "matching_val.json",
        "matching_val.npy",
    ]


def test_a_first_stage_bounds_what_is_scored_and_is_named(caption_world: Path, caption_plugins: Plugins) -> None:
    first = run_experiment(experiment(caption_world, caption_plugins, "train.epochs=0"), plugins=caption_plugins)
    path = first.folder / "scores" / "matching_val.npy"
    stage = f"tasks.0.rerank={{scores: {path}, candidates: 2, final: true}}"
    result = run_experiment(
        experiment(caption_world, caption_plugins, "train.epochs=0", "tasks.0.dataset.evaluate=[val]", stage),
        plugins=caption_plugins,
    )
    reranked, full = matrix(result, "val"), matrix(first, "val")
    kept = ~np.isneginf(reranked)
    assert 12 <= kept.sum() < kept.size
    assert reranked[kept] == pytest.approx(full[kept], abs=1e-6)
    assert result.rows[0].score.protocol["first stage"].startswith("the best 2 per query by matching_val.npy")
    between = run_experiment(
        experiment(
            caption_world, caption_plugins, "tasks.0.dataset.evaluate=[val]", stage.replace(", final: true", "")
        ),
        plugins=caption_plugins,
    )
    assert "first stage" not in between.rows[0].score.protocol
    assert not np.isneginf(matrix(between, "val")).any()
    history = json.loads((between.folder / "evaluations.json").read_text())
    assert "first stage" in history[0]["scores"][0]["protocol"]


def test_small_blocks_change_no_rank(
    caption_world: Path, caption_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_experiment(experiment(caption_world, caption_plugins, "train.epochs=0"), plugins=caption_plugins)
    monkeypatch.setattr(sizes, "PART_BYTES", 1)
    cut = run_experiment(
        experiment(caption_world, caption_plugins, "train.epochs=0", runs_root="cut"), plugins=caption_plugins
    )
    assert matrix(cut) == pytest.approx(matrix(whole), abs=1e-6)
    assert values(cut) == values(whole)


def test_predictions_can_be_scored_again_without_the_matrix(caption_world: Path, caption_plugins: Plugins) -> None:
    result = run_experiment(
        experiment(caption_world, caption_plugins, "tasks.0.protocols=[all,first-caption]"), plugins=caption_plugins
    )
    path = result.folder / "predictions" / "matching_test.jsonl"
    loaded = experiment(caption_world, caption_plugins, "tasks.0.protocols=[all,first-caption]")
    _, scores = score_file(loaded, "test", path, caption_plugins)
    assert {score.name: score.value for score in scores} == values(result)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 10 + 5
    full = matrix(result)
    best = lines[0]
    assert best["best"][0] == f"img{2 + int(full[:, 0].argmax())}"
    column = full[:, 0]
    assert (best["texts"], best["truth"]["image"]) == (["4 5 6"], "img2")
    assert best["truth"]["rank"]["all"] == 1 + int((column > column[0]).sum())
    image = lines[10]
    assert (image["id"], image["images"]) == ("image:img2", ["img2"])
    assert image["truth"]["texts"] == ["test-2-0", "test-2-1", "test-2-2"]
    assert list(image["items"]) == image["best"]
    assert best["scores"][0] == pytest.approx(float(full[:, 0].max()))
    with pytest.raises(DataError, match="no ranks under protocol 'first-five'"):
        score_file(
            experiment(caption_world, caption_plugins, "tasks.0.protocols=[first-five]"), "test", path, caption_plugins
        )
    path.write_text("\n".join(path.read_text().splitlines()[1:]))
    with pytest.raises(DataError, match="1 queries have no prediction: test-2-0"):
        score_file(loaded, "test", path, caption_plugins)


def test_a_protocol_that_does_not_fit_a_split_is_told_before_anything_is_trained(
    caption_world: Path, caption_plugins: Plugins
) -> None:
    loaded = experiment(caption_world, caption_plugins, "tasks.0.protocols=[all,5-fold-1k]")
    with pytest.raises(DataError, match=r"'5-fold-1k' is not defined for the 6 images of split 'val'(.|\n)*'test'"):
        run_experiment(loaded, plugins=caption_plugins)
    assert not (caption_world / "runs" / "captions" / "latest" / "checkpoints").exists()


def test_between_epochs_a_protocol_that_does_not_fit_the_part_is_left_out() -> None:
    assert [found.name for found in usable_protocols(["first-five", "5-fold-1k"], 5000)] == ["first-five", "5-fold-1k"]
    assert [found.name for found in usable_protocols(["first-five", "5-fold-1k"], 1000)] == ["first-five"]
    assert [found.name for found in usable_protocols(["5-fold-1k"], 1000)] == ["all"]


def test_texts_that_no_protocol_ranks_are_not_scored(caption_world: Path, caption_plugins: Plugins) -> None:
    options = ["train.epochs=0", "tasks.0.protocols=[first-caption]"]
    result = run_experiment(experiment(caption_world, caption_plugins, *options), plugins=caption_plugins)
    whole = run_experiment(
        experiment(caption_world, caption_plugins, "train.epochs=0", runs_root="w"), plugins=caption_plugins
    )
    first = [0, 3, 4, 6, 9]
    assert matrix(result)[:, first] == pytest.approx(matrix(whole)[:, first], abs=1e-6)
    assert np.isneginf(np.delete(matrix(result), first, axis=1)).all()
    found = evaluate_retrieval(matrix(whole)[:, first], np.arange(5))
    assert values(result)["TR R@1"] == found.text_retrieval.r1


def test_a_score_that_is_no_number_ends_the_evaluation(caption_world: Path, caption_plugins: Plugins) -> None:
    loaded = experiment(caption_world, caption_plugins, "train.epochs=0", "backbone.poison=img4")
    with pytest.raises(CheckpointError, match="matching score is not finite"):
        run_experiment(loaded, plugins=caption_plugins)


def test_a_task_that_needs_the_pretrained_head_refuses_a_random_one(
    caption_world: Path, caption_plugins: Plugins
) -> None:
    loaded = experiment(caption_world, caption_plugins, "train.epochs=0", "tasks.0.needs_head=true")
    with pytest.raises(CheckpointError, match=r"needs the pre-trained .* \(head.weight, head.bias\): no weights"):
        run_experiment(loaded, plugins=caption_plugins)


class Remarks(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[str, int, int]] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def progress(self, what: str, done: int, total: int) -> None:
        self.steps.append((what, done, total))


def test_the_reader_learns_how_much_there_is_and_what_was_done_before(
    caption_world: Path, caption_plugins: Plugins
) -> None:
    result = run_experiment(experiment(caption_world, caption_plugins), plugins=caption_plugins)
    (result.folder / "scores" / "matching_test.json").unlink()
    remarks = Remarks()
    again = experiment(caption_world, caption_plugins, "train.epochs=0")
    folder, ranks = open_run_folder(result.folder), Ranks(0, 1, torch.device("cpu"))
    evaluate_run(OpenedRun(folder, again, caption_plugins), ranks, Reporters([remarks]))
    assert remarks.notes[0] == (
        "val: 72 pairs (6 images x 12 texts), 72 of them scored before or left out: nothing left to score"
    )
    assert remarks.notes[1].startswith("test: 50 pairs (5 images x 10 texts), ")
    assert remarks.notes[1].endswith("pairs/s")
    assert remarks.steps[-1] == ("scoring test", 50, 50)


def test_the_best_candidates_are_those_of_a_sort() -> None:
    scores = np.random.default_rng(1).integers(0, 6, (17, 23)).astype(np.float32)
    scores[3] = -np.inf
    for block in (1, 60, 10_000):
        of_columns, of_rows = best_candidates(scores, 4, block)
        for column in range(23):
            kept = sorted(scores[:, column], reverse=True)[:4]
            assert [score for _, score in of_columns[column]] == kept
            assert all(scores[row, column] == score for row, score in of_columns[column])
        assert of_rows[3] == []
        assert [score for _, score in of_rows[5]] == sorted(scores[5], reverse=True)[:4]


def test_protocols_of_options_and_of_ranking_are_the_same() -> None:
    from typing import get_args

    from vlrun_retrieval.config import MatchingConfig
    from vlrun_retrieval.ranking import TIE_POLICIES

    fields = MatchingConfig.model_fields
    assert get_args(get_args(fields["protocols"].annotation)[0]) == tuple(PROTOCOLS)
    assert get_args(fields["ties"].annotation) == TIE_POLICIES


def test_images_with_more_or_fewer_regions_fit_into_one_block(
    caption_world: Path, caption_plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = [replace(image_features(row), image_id=f"img{row}") for row in range(NUM_IMAGES)]
    features[4] = replace(features[4], features=features[4].features[:1], boxes=features[4].boxes[:1])
    store = caption_world / "data" / "uneven.lmdb"
    write_store(store, features)
    monkeypatch.setattr(scorer, "_ENCODED_AT_ONCE", 1)  # each image is padded on its own
    options = ["train.epochs=0", f"tasks.0.dataset.features={store}"]
    result = run_experiment(experiment(caption_world, caption_plugins, *options), plugins=caption_plugins)
    plain = run_experiment(
        experiment(caption_world, caption_plugins, options[0], runs_root="w"), plugins=caption_plugins
    )
    others = [0, 1, 3, 4]  # the third image of test is img4
    assert matrix(result)[others] == pytest.approx(matrix(plain)[others], abs=1e-6)
    assert not np.allclose(matrix(result)[2], matrix(plain)[2])


def test_final_scores_of_another_model_are_not_overwritten(caption_world: Path, caption_plugins: Plugins) -> None:
    result = run_experiment(experiment(caption_world, caption_plugins), plugins=caption_plugins)
    kept = matrix(result)
    again = experiment(caption_world, caption_plugins, "train.epochs=0", "tasks.0.score=match-logit")
    folder, ranks = open_run_folder(result.folder), Ranks(0, 1, torch.device("cpu"))
    for _ in range(2):
        evaluate_run(OpenedRun(folder, again, caption_plugins), ranks, Reporters([]))
    assert (matrix(result) == kept).all()
    others = list((result.folder / "scores").glob("matching_test-*.npy"))
    assert len(others) == 1
    assert not (np.load(others[0]) == kept).all()


def test_a_first_stage_without_a_split_is_refused_before_training(
    caption_world: Path, caption_plugins: Plugins
) -> None:
    first = run_experiment(experiment(caption_world, caption_plugins, "train.epochs=0"), plugins=caption_plugins)
    path = first.folder / "scores" / "matching_val.npy"
    stage = f"tasks.0.rerank={{scores: {path}, candidates: 2, final: true}}"
    with pytest.raises(DataError, match="has no scores of"):
        run_experiment(experiment(caption_world, caption_plugins, stage), plugins=caption_plugins)
    ours = np.load(path).copy()
    only_val = "tasks.0.dataset.evaluate=[val]"
    loaded = experiment(caption_world, caption_plugins, "train.epochs=0", only_val, stage)
    one = matrix(run_experiment(loaded, plugins=caption_plugins), "val")
    np.save(path, -ours)
    manifest = json.loads(path.with_suffix(".json").read_text())
    tiles = TilePlan.from_json(len(ours), manifest["tiles"])
    checksums = [tile_checksum(-ours, tile, number) for number, tile in enumerate(tiles)]
    np.array(checksums, "<u4").tofile(path.with_suffix(".crc"))
    path.with_suffix(".json").write_text(json.dumps({**manifest, "identity": {"another": "model"}}))
    two = matrix(run_experiment(loaded, plugins=caption_plugins), "val")
    assert (np.isneginf(one) != np.isneginf(two)).any(), "another first stage leaves out other pairs"


def test_scoring_a_file_again_says_that_a_first_stage_chose(caption_world: Path, caption_plugins: Plugins) -> None:
    first = run_experiment(experiment(caption_world, caption_plugins, "train.epochs=0"), plugins=caption_plugins)
    path = first.folder / "scores" / "matching_val.npy"
    stage = f"tasks.0.rerank={{scores: {path}, candidates: 2, final: true}}"
    loaded = experiment(caption_world, caption_plugins, "train.epochs=0", "tasks.0.dataset.evaluate=[val]", stage)
    result = run_experiment(loaded, plugins=caption_plugins)
    _, scores = score_file(loaded, "val", result.folder / "predictions" / "matching_val.jsonl", caption_plugins)
    assert scores[0].protocol["first stage"] == result.rows[0].score.protocol["first stage"]


@pytest.mark.parametrize("ranks", [[1, 2], [0, 0, 10**30], [0.5, 0, 0], [-1, 0, 0], ["1", 0, 0], [True, 0, 0], "no"])
def test_ranks_that_are_none_are_refused(caption_world: Path, caption_plugins: Plugins, ranks: Any) -> None:
    loaded = experiment(caption_world, caption_plugins, "train.epochs=0")
    result = run_experiment(loaded, plugins=caption_plugins)
    path = result.folder / "predictions" / "matching_test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["ranks"]["all"] = ranks
    path.write_text("\n".join(map(json.dumps, rows)))
    # a number of more than 64 bits is refused where the line is read
    expected = "1 predictions have no ranks under protocol 'all'|matching_test.jsonl:3: not a JSON object with an id"
    with pytest.raises(DataError, match=expected):
        score_file(loaded, "test", path, caption_plugins)
