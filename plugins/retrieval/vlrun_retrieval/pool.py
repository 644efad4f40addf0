"""Scores the candidate pool of a split, on all processes, and turns the matrix into one prediction per query.

Memory: the parts of as many images as fit into ``IMAGE_BLOCK_BYTES`` stay on the device (twice that while they are put
together), beside them one group of texts and the activations of ``pairs_per_batch`` pairs; on the host, nine bytes per
token of all texts. The matrix itself is a file; its pages belong to the system's cache.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun import Dataset, Prediction, RanksView, RunView
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.matrix import (
    FirstStage,
    ScoreMatrix,
    Scores,
    TilePlan,
    leave_out_all_but,
    read_first_stage,
    unfinished,
)
from vlrun_retrieval.metric import needed_texts, pool_predictions, usable_protocols
from vlrun_retrieval.scorer import EncodedTexts, Matching, PairScorer, Part, Rows, bytes_of, pair_scorer, take

IMAGE_BLOCK_BYTES = 256 * 2**20  # twice that while a block is being made
_FLUSH_SECONDS = 30.0


def score_pool(task: Matching, run: RunView, split: str, *, final: bool) -> list[Prediction]:
    """Scores every pair of the split once and ranks them; the predictions are on the main rank only.

    What an evaluation before this one has scored with the same model is not scored again.

    Raises:
        StoppedOnRequest: a signal asked for it; what is scored is kept.
        CheckpointError: a score is not finite, or the task does not trust the head.
    """
    ranks, dataset = run.ranks, run.datasets[split]
    pool = CandidatePool.of(task.evaluated_part(dataset, final=final))
    protocols = usable_protocols(task.config.protocols, len(pool.image_ids))
    scorer = pair_scorer(task, run)
    predictions: list[Prediction] = []
    with scorer.at_work():
        texts = scorer.encoded(pool.texts, pool.image_ids[0])
        with ranks.alike():
            _check_sample(task, scorer, pool, texts)
        plan = _plan(task, run, scorer, pool, texts, needed_texts(pool, protocols), final)
        is_whole = final or _is_whole(task, dataset)
        name = f"{run.name}_{split}{'' if is_whole else '.between-epochs'}.npy"
        matrix = ScoreMatrix(ranks.from_main(lambda: _place(run.folder / "scores" / name, plan.identity, final)))
        with _alone(matrix, ranks):
            pending = ranks.from_main(lambda: _prepare(matrix, plan, pool, final))
            work = _PoolWork(scorer, pool, texts, plan.tiles, task.config.pairs_per_batch, matrix.open())
            _fill(work, run, split, pending)
            ranks.barrier()
            ranks.from_main(lambda: predictions.extend(pool_predictions(work.scores, pool, protocols)))
            if ranks.is_main and not is_whole:
                matrix.delete()
    return predictions


def _is_whole(task: Matching, dataset: Dataset[Any]) -> bool:
    """Whether an evaluation between epochs scores what the one at the end does; if so, it need not be done twice."""
    same_first_stage = task.evaluation_protocol(final=False) == task.evaluation_protocol(final=True)
    return same_first_stage and task.evaluated_part(dataset, final=False) is dataset


@contextmanager
def _alone(matrix: ScoreMatrix, ranks: RanksView) -> Iterator[None]:
    """While it is open, no other evaluation touches the matrix."""
    ranks.from_main(matrix.acquire)
    try:
        yield
    finally:
        matrix.release()


def _check_sample(task: Matching, scorer: PairScorer, pool: CandidatePool, texts: EncodedTexts) -> None:
    """Lets the task compare some right pairs with wrong ones."""
    num_images = len(pool.image_ids)
    if not task.sample_size or num_images < 2:
        return
    rows = np.unique(np.linspace(0, len(pool.texts) - 1, min(task.sample_size, len(pool.texts))).astype(np.int64))
    own = pool.owner[rows]
    other = (own + max(1, num_images // 2)) % num_images
    found = []
    for images in (own, other):
        part = scorer.region_part([pool.image_ids[row] for row in images])
        found.append(scorer.scores(scorer.text_part(texts, rows), part).cpu().numpy())
    task.check_sample(found[0], found[1])


@dataclass(frozen=True)
class _Plan:
    """What is scored, and what the scores depend on.

    Attributes:
        needed: texts that some protocol ranks.
        first_stage: None where every pair of them is scored.
    """

    tiles: TilePlan
    needed: Rows
    first_stage: FirstStage | None
    candidates: int
    identity: Mapping[str, Any]


def _plan(
    task: Matching,
    run: RunView,
    scorer: PairScorer,
    pool: CandidatePool,
    texts: EncodedTexts,
    needed: Rows,
    final: bool,
) -> _Plan:
    config = task.config
    block = max(1, IMAGE_BLOCK_BYTES // bytes_of(scorer.region_part(pool.image_ids[:1])))
    first_stage, spread = None, 1
    if config.rerank is not None and task.evaluation_protocol(final=final):
        with run.ranks.alike():
            first_stage = read_first_stage(config.rerank.scores, pool.image_ids, pool.text_ids)
        # few pairs of a tile are scored, so it spans more of them
        wanted = config.rerank.candidates * (len(pool.image_ids) + len(pool.texts))
        spread = max(1, len(pool.image_ids) * len(pool.texts) // wanted)
    tiles = TilePlan(
        len(pool.image_ids),
        texts.lengths,
        needed,
        pairs_per_batch=config.pairs_per_batch * spread,
        images_per_block=block,
    )
    identity = {
        **run.identity(),
        "pool": pool.fingerprint,
        "texts": hashlib.blake2b(needed.tobytes(), digest_size=8).hexdigest(),
        "score": config.score,
        "pairs_per_batch": config.pairs_per_batch,
        "images_per_block": block,
        "first stage": [first_stage.identity, config.rerank.candidates] if first_stage and config.rerank else None,
    }
    candidates = config.rerank.candidates if config.rerank else 0
    return _Plan(tiles, needed, first_stage, candidates, identity)


def _place(path: Path, identity: Mapping[str, Any], final: bool) -> Path:
    """``path``, or one beside it where that holds the final scores of another model or protocol."""
    there = ScoreMatrix(path)
    if not final or not there.is_final() or there.identity() == dict(identity):
        return path
    digest = hashlib.blake2b(json.dumps(dict(identity), sort_keys=True).encode(), digest_size=4).hexdigest()
    return path.with_name(f"{path.stem}-{digest}{path.suffix}")


def _prepare(matrix: ScoreMatrix, plan: _Plan, pool: CandidatePool, final: bool) -> Rows:
    """Makes or opens the file; returns the numbers of the tiles to score."""

    def leave_out(scores: Scores) -> None:
        unneeded = np.setdiff1d(np.arange(len(pool.texts)), plan.needed)
        if len(unneeded):
            for row in scores:
                row[unneeded] = -np.inf
        if plan.first_stage is not None:
            leave_out_all_but(scores, plan.first_stage, plan.candidates)

    facts = {"final": final, "image_ids": pool.image_ids, "text_ids": pool.text_ids}
    was_there = matrix.prepare((len(pool.image_ids), len(pool.texts)), plan.identity, facts, leave_out)
    is_dense = not was_there and plan.first_stage is None
    return np.arange(len(plan.tiles)) if is_dense else unfinished(matrix.open(), plan.tiles)


@dataclass(frozen=True)
class _PoolWork:
    """What scoring a pool works on."""

    scorer: PairScorer
    pool: CandidatePool
    texts: EncodedTexts
    tiles: TilePlan
    pairs_per_batch: int
    scores: Scores

    def tile_by_tile(self, numbers: Rows) -> Iterator[None]:
        """Scores one tile each time it is asked; parts of images stay for a block, those of texts for a group."""
        block = group = -1
        images: Part = {}
        of_tile: Part = {}
        texts: Part = {}
        for number in numbers:
            tile = self.tiles[number]
            first = self.tiles.blocks[tile.block].start
            if tile.block != block:
                block, group = tile.block, -1
                images = of_tile = {}  # the old block has to go before the new one comes
                images = self.scorer.region_part(self.pool.image_ids[first : self.tiles.blocks[block].stop])
            if tile.group != group:
                group, texts = tile.group, self.scorer.text_part(self.texts, tile.texts)
            of_tile = take(images, slice(tile.images.start - first, tile.images.stop - first))
            place = (tile.images, tile.texts)
            self.scores[place] = self.scored(texts, of_tile, ~np.isneginf(self.scores[place]))
            yield

    def scored(self, texts: Part, images: Part, wanted: NDArray[np.bool_]) -> Scores:
        """Scores (M, N) of the ``wanted`` pairs; -inf for the others."""
        if wanted.all() and wanted.size <= self.pairs_per_batch:
            return self.scorer.all_pairs(texts, images).cpu().numpy()
        rows, columns = np.nonzero(wanted)
        found = np.full(wanted.shape, -np.inf, np.float32)
        for start in range(0, len(rows), self.pairs_per_batch):
            some = slice(start, start + self.pairs_per_batch)
            scores = self.scorer.scores(take(texts, columns[some]), take(images, rows[some]))
            found[rows[some], columns[some]] = scores.cpu().numpy()
        return found


def _fill(work: _PoolWork, run: RunView, split: str, pending: Rows) -> None:
    """Scores the pending tiles; rank r takes every world-size-th of them, so nothing is padded to even out."""
    ranks = run.ranks
    left = sum(work.tiles[number].pairs for number in pending)
    mine = work.tile_by_tile(pending[ranks.rank :: ranks.world_size])
    done = unmeasured = 0
    started = flushed = time.monotonic()
    for start in range(0, len(pending), ranks.world_size):
        run.leave_if_asked("an evaluation")
        if start + ranks.rank < len(pending):
            next(mine)
        if time.monotonic() - flushed > _FLUSH_SECONDS:
            work.scores.flush()  # type: ignore[attr-defined]  # it is a memmap
            flushed = time.monotonic()
        done += sum(work.tiles[number].pairs for number in pending[start : start + ranks.world_size])
        if not start:  # the first tiles warm everything up
            unmeasured, started = done, time.monotonic()
        run.progress(f"scoring {split}", done, left)
    work.scores.flush()  # type: ignore[attr-defined]
    run.note(_summary(work, split, left, (done - unmeasured) / max(1e-9, time.monotonic() - started)))


def _summary(work: _PoolWork, split: str, scored: int, rate: float) -> str:
    """How many pairs there are, how many of them were scored, and how fast."""
    images, total = len(work.pool.image_ids), work.tiles.pairs
    text = f"{split}: {total:,} pairs ({images:,} images x {total // images:,} texts)"
    if scored < total:
        text += f", {total - scored:,} of them scored before or left out"
    if not scored:
        return f"{text}: nothing left to score"
    return f"{text}, {rate:,.0f} pairs/s" if rate else text
