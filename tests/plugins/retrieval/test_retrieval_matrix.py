"""The file of a score matrix: tiles, what is kept, what is left out, what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlrun import DataError
from vlrun_retrieval.matrix import (
    FirstStage,
    ScoreMatrix,
    TilePlan,
    leave_out_all_but,
    read_first_stage,
    tile_checksum,
    unfinished,
)

LENGTHS = np.array([5, 3, 5, 9, 3, 3, 5, 5, 7, 3, 5])
PLAN = TilePlan(6, LENGTHS, pairs_per_batch=4, images_per_block=100)
IDS = {"image_ids": [f"i{row}" for row in range(6)], "text_ids": [f"t{row}" for row in range(11)]}


def plan_of(shape: tuple[int, int]) -> TilePlan:
    return TilePlan(shape[0], np.full(shape[1], 7), pairs_per_batch=1000, images_per_block=100)


def fill(matrix: ScoreMatrix, values: Any, *numbers: int) -> None:
    """Scores tiles of ``PLAN``, all or some, as an evaluation does."""
    scores, checksums = matrix.open(), matrix.open_checksums()
    for number in numbers or range(len(PLAN)):
        place = PLAN[number].images, PLAN[number].texts
        scores[place] = values[place]
        checksums[number] = tile_checksum(scores, PLAN[number], number)


def left(matrix: ScoreMatrix) -> list[int]:
    return unfinished(matrix.open(), matrix.open_checksums(), PLAN).tolist()


SOME = np.arange(66, dtype=np.float32).reshape(6, 11)


@pytest.fixture
def matrix(tmp_path: Path) -> ScoreMatrix:
    return ScoreMatrix(tmp_path / "scores" / "task_test.npy")


@pytest.mark.parametrize("pairs", [1, 4, 7, 1000])
@pytest.mark.parametrize("block", [1, 4, 100])
def test_tiles_hold_every_pair_once(pairs: int, block: int) -> None:
    plan = TilePlan(6, LENGTHS, pairs_per_batch=pairs, images_per_block=block, texts_per_group=3)
    seen = np.zeros((6, 11), int)
    for tile in plan:
        seen[tile.images, tile.texts] += 1
        assert tile.pairs <= max(pairs, 1)
        assert len(set(LENGTHS[tile.texts])) == 1, "texts of one length need no padding"
        assert plan.blocks[tile.block][0] <= tile.images.start
        assert tile.images.stop <= plan.blocks[tile.block][-1] + 1
    assert (seen == 1).all()
    assert plan.pairs == 66
    assert [tile.block for tile in plan] == sorted(tile.block for tile in plan)


def test_a_million_tiles_take_no_memory_before_they_are_asked_for() -> None:
    plan = TilePlan(5000, np.repeat(np.arange(5, 25), 1250), pairs_per_batch=16, images_per_block=1000)
    assert len(plan) == 20 * (78 * 5000 + 5000 // 8)  # of each length 78 groups of 16 texts and one of 2
    last = plan[len(plan) - 1]
    assert last.images == slice(4992, 5000)


def test_a_new_matrix_is_not_scored_and_an_old_one_is_kept(matrix: ScoreMatrix) -> None:
    assert not matrix.prepare(PLAN, {"model": "a"}, IDS)
    assert len(left(matrix)) == len(PLAN)
    fill(matrix, SOME, 2)
    assert matrix.prepare(PLAN, {"model": "a"}, IDS)
    assert left(matrix) == [number for number in range(len(PLAN)) if number != 2]


def test_scores_that_changed_after_they_were_written_are_scored_again(matrix: ScoreMatrix) -> None:
    matrix.prepare(PLAN, {"model": "a"}, IDS)
    fill(matrix, SOME)
    assert left(matrix) == []
    whole = matrix.path.read_bytes()
    start = len(whole) - SOME.nbytes
    for at in range(start, len(whole), 13):
        matrix.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        row, column = divmod((at - start) // 4, 11)
        ((number,),) = [left(matrix)]
        assert row in range(6)[PLAN[number].images]
        assert column in PLAN[number].texts
        with pytest.raises(DataError, match="1 of its tiles changed after they were scored; run its evaluation again"):
            read_first_stage(matrix.path, IDS["image_ids"], IDS["text_ids"])
    matrix.path.write_bytes(whole[:start] + whole[start + 44 :] + whole[start : start + 44])
    assert len(left(matrix)) == len(PLAN), "scores of other images are no scores of these"


def test_a_matrix_without_its_checksums_is_scored_again(matrix: ScoreMatrix) -> None:
    matrix.prepare(PLAN, {"model": "a"}, IDS)
    fill(matrix, SOME)
    matrix.path.with_suffix(".crc").unlink()
    with pytest.raises(DataError, match="its checksums are missing"):
        read_first_stage(matrix.path, IDS["image_ids"], IDS["text_ids"])
    assert matrix.prepare(PLAN, {"model": "a"}, IDS)
    assert len(left(matrix)) == len(PLAN)


@pytest.mark.parametrize("name", [".task_test.npy.lock", ".task_test.npy.partial", "task_test.npy", "task_test.crc"])
def test_a_link_in_the_folder_is_not_followed(matrix: ScoreMatrix, tmp_path: Path, name: str) -> None:
    matrix.path.parent.mkdir()
    (tmp_path / "other").write_text("mine")
    (matrix.path.parent / name).symlink_to(tmp_path / "other")
    if name.endswith(".lock"):
        with pytest.raises(DataError, match="cannot write score matrices here"):
            matrix.acquire()
    else:
        matrix.prepare(PLAN, {"model": "a"}, IDS)
        fill(matrix, SOME)
        assert left(matrix) == []
    assert (tmp_path / "other").read_text() == "mine"


@pytest.mark.parametrize(
    ("shape", "identity"), [((6, 11), {"model": "b"}), ((6, 11), {"model": "a", "more": 1}), ((11, 6), {"model": "a"})]
)
def test_scores_of_another_model_or_pool_are_not_continued(
    matrix: ScoreMatrix, shape: tuple[int, int], identity: dict[str, Any]
) -> None:
    matrix.prepare(PLAN, {"model": "a"}, IDS)
    matrix.open()[:] = 1
    assert not matrix.prepare(plan_of(shape), identity, IDS)
    assert np.isnan(matrix.open()).all()


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was-here",)


@pytest.mark.parametrize("damage", ["cut", "a pickle", "no manifest", "broken manifest"])
def test_a_damaged_matrix_starts_anew(
    matrix: ScoreMatrix, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    matrix.prepare(PLAN, {"model": "a"}, IDS)
    if damage == "cut":
        matrix.path.write_bytes(matrix.path.read_bytes()[:200])
    elif damage == "a pickle":
        np.save(matrix.path, np.full((6, 11), RunsCode(), object))
        with pytest.raises(DataError, match="not a score matrix"):
            read_first_stage(matrix.path, IDS["image_ids"], IDS["text_ids"])
    elif damage == "no manifest":
        matrix.manifest.unlink()
    else:
        matrix.manifest.write_text("{")
    assert not matrix.prepare(PLAN, {"model": "a"}, IDS)
    assert matrix.open().shape == (6, 11)
    assert not (tmp_path / "was-here").exists()


def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "scores").touch()
    with pytest.raises(DataError, match=r"scores/x.npy: cannot write a score matrix"):
        ScoreMatrix(tmp_path / "scores" / "x.npy").prepare(plan_of((2, 2)), {}, {})


def test_a_first_stage_leaves_the_best_of_each_row_and_column() -> None:
    first = np.random.default_rng(0).normal(size=(9, 20)).astype(np.float32)
    rows, columns = np.array([8, 1, 2, 3]), np.arange(19, 4, -1)
    scores = np.full((4, 15), np.nan, np.float32)
    leave_out_all_but(scores, FirstStage(first, rows, columns), 2)
    part = first[np.ix_(rows, columns)]
    best = (np.argsort(np.argsort(-part, axis=1), axis=1) < 2) | (np.argsort(np.argsort(-part, axis=0), axis=0) < 2)
    assert (np.isneginf(scores) == ~best).all()
    assert np.isnan(scores[best]).all()


def test_a_first_stage_has_to_be_finished_and_to_know_everything(matrix: ScoreMatrix) -> None:
    matrix.prepare(PLAN, {"model": "a"}, IDS)
    with pytest.raises(DataError, match="it is not finished"):
        read_first_stage(matrix.path, IDS["image_ids"], IDS["text_ids"])
    fill(matrix, SOME)
    found = read_first_stage(matrix.path, ["i3", "i0"], ["t10"])
    assert found.scores[found.rows][:, found.columns].tolist() == [[43], [10]]
    with pytest.raises(DataError, match="no scores of 1 images and texts of this split, such as 'new'"):
        read_first_stage(matrix.path, ["i3"], ["t10", "new"])
    matrix.manifest.unlink()
    with pytest.raises(DataError, match="not a score matrix"):
        read_first_stage(matrix.path, ["i3"], ["t10"])


def test_what_is_left_out_is_left_out_before_the_file_appears(matrix: ScoreMatrix) -> None:
    def fails(scores: Any) -> None:
        scores[0] = -np.inf
        raise DataError("the first stage is not finished")

    with pytest.raises(DataError, match="first stage"):
        matrix.prepare(PLAN, {"model": "a"}, IDS, fails)
    assert not matrix.path.exists()

    def leaves_out(scores: Any) -> None:
        scores[:, 3:] = -np.inf

    assert not matrix.prepare(PLAN, {"model": "a"}, IDS, leaves_out)
    assert np.isneginf(matrix.open()[:, 3:]).all()
    assert np.isnan(matrix.open()[:, :3]).all()
    assert list(matrix.path.parent.glob(".*.partial")) == []


def test_a_first_stage_that_left_something_out_leaves_it_out(tmp_path: Path) -> None:
    first = np.ones((3, 4), np.float32)
    first[:, 2] = -np.inf
    scores = np.full((3, 4), np.nan, np.float32)
    leave_out_all_but(scores, FirstStage(first, np.arange(3), np.arange(4)), 2)
    assert np.isneginf(scores[:, 2]).all()


def test_one_evaluation_at_a_time_fills_a_matrix(matrix: ScoreMatrix) -> None:
    matrix.acquire()
    with pytest.raises(DataError, match="another evaluation is filling it"):
        ScoreMatrix(matrix.path).acquire()
    matrix.release()
    other = ScoreMatrix(matrix.path)
    other.acquire()
    other.release()


def test_a_matrix_that_does_not_fit_on_the_disk_is_refused_before_it_is_filled(
    matrix: ScoreMatrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, offset: int, length: int) -> None:
        assert length > 6 * 11 * 4
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DataError, match="No space left on device"):
        matrix.prepare(PLAN, {"model": "a"}, IDS)
    assert list(matrix.path.parent.glob(".*.partial")) == []


def test_a_matrix_takes_its_place_on_the_disk_also_where_no_call_does_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS: a full disk would kill the process that writes to the mapping later."""
    shape, sizes = (300, 20_000), []
    for name in ("usual", "macos"):
        matrix = ScoreMatrix(tmp_path / f"{name}.npy")
        assert not matrix.prepare(plan_of(shape), {}, {})
        assert np.isnan(matrix.open()).all()
        status = matrix.path.stat()
        assert status.st_blocks * 512 >= shape[0] * shape[1] * 4
        sizes.append(status.st_size)
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    assert sizes[0] == sizes[1]
