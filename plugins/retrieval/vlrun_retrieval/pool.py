"""Scores the candidate pool of a split, on all processes, and turns the matrix into one prediction per query.

Memory: the parts of as many images as fit into ``part_bytes`` stay on the device (twice that while they are put
together), beside them one group of texts and the activations of ``pairs_per_batch`` pairs; on the host, nine bytes per
token of all texts. The matrix itself is a file; its pages belong to the system's cache.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vlrun import Prediction, RanksView, RunView
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.config import MatchingConfig, RerankConfig
from vlrun_retrieval.matrix import (
    TEXTS_PER_GROUP,
    Checksums,
    FirstStage,
    ScoreMatrix,
    Scores,
    TilePlan,
    leave_out_all_but,
    read_first_stage,
    tile_checksum,
    unfinished,
)
from vlrun_retrieval.metric import needed_texts, pool_predictions, usable_protocols
from vlrun_retrieval.ranking import Protocol
from vlrun_retrieval.scorer import EncodedTexts, OnTheWay, PairScorer, Part, Rows, take
from vlrun_retrieval.sizes import TOWER_TEXTS, part_bytes

_FLUSH_SECONDS = 30.0


@dataclass(frozen=True)
class PoolEvaluation:
    """One evaluation of a pool, as a task wants it.

    Attributes:
        split: what progress and files call it.
        rerank: the first stage; None where every pair is scored.
        final: whether somebody may come back for the scores; else they make way for those of the next evaluation.
        is_whole: whether an evaluation at the end of the run scores the same pairs, which then need not be done twice.
        to_scores: logits (P, 2) -> scores (P,).
        sample_size: how many texts are scored with their own and another image first; 0: none.
        check_sample: looks at these scores, (n,) and (n,); an error of it ends the evaluation.
    """

    split: str
    pool: CandidatePool
    config: MatchingConfig
    rerank: RerankConfig | None
    final: bool
    is_whole: bool
    to_scores: Callable[[Tensor], Tensor]
    sample_size: int
    check_sample: Callable[[NDArray[np.float32], NDArray[np.float32]], None]

    @property
    def protocols(self) -> list[Protocol]:
        """Those of the options that this pool fits."""
        return usable_protocols(self.config.protocols, len(self.pool.image_ids))


def score_pool(evaluation: PoolEvaluation, run: RunView) -> list[Prediction]:
    """Scores every pair of the pool once and ranks them; the predictions are on the main rank only.

    What an evaluation before this one has scored with the same model is not scored again.

    Raises:
        StoppedOnRequest: a signal asked for it; what is scored is kept.
        CheckpointError: a score is not finite, or the task does not trust the head.
    """
    ranks, pool = run.ranks, evaluation.pool
    scorer = PairScorer.of_run(run, evaluation.to_scores)
    predictions: list[Prediction] = []
    with scorer.at_work():
        with ranks.together():
            texts = scorer.encoded(pool.texts, pool.image_ids[0])
            _check_sample(evaluation, scorer, texts)
        plan = _plan(evaluation, run, scorer, texts)
        name = f"{run.name}_{evaluation.split}{'' if evaluation.is_whole else '.between-epochs'}.npy"
        path = run.folder / "scores" / name
        matrix = ScoreMatrix(ranks.from_main(lambda: _place(path, plan.identity, evaluation.final)))
        with _alone(matrix, ranks):
            pending = ranks.from_main(lambda: _prepare(matrix, plan, pool, evaluation.final))
            work = _PoolWork(
                scorer, pool, texts, plan.tiles, plan.pairs_per_batch, matrix.open(), matrix.open_checksums()
            )
            _fill(work, run, evaluation.split, pending)
            ranks.barrier()
            ranks.from_main(lambda: predictions.extend(pool_predictions(work.scores, pool, evaluation.protocols)))
            if not evaluation.is_whole:
                ranks.from_main(matrix.delete)
    return predictions


@contextmanager
def _alone(matrix: ScoreMatrix, ranks: RanksView) -> Iterator[None]:
    """While it is open, no other evaluation touches the matrix."""
    ranks.from_main(matrix.acquire)
    try:
        yield
    finally:
        matrix.release()


def _check_sample(evaluation: PoolEvaluation, scorer: PairScorer, texts: EncodedTexts) -> None:
    """Lets the task compare some right pairs with wrong ones."""
    pool, num_images = evaluation.pool, len(evaluation.pool.image_ids)
    if not evaluation.sample_size or num_images < 2:
        return
    rows = np.unique(np.linspace(0, len(pool.texts) - 1, min(evaluation.sample_size, len(pool.texts))).astype(np.int64))
    own = pool.owner[rows]
    other = (own + max(1, num_images // 2)) % num_images
    matched, mismatched = (
        scorer.scores(scorer.text_part(texts, rows), scorer.region_part([pool.image_ids[row] for row in images]))
        for images in (own, other)
    )
    evaluation.check_sample(OnTheWay(matched).values(), OnTheWay(mismatched).values())


@dataclass(frozen=True)
class _Plan:
    """What is scored, and what the scores depend on.

    Attributes:
        needed: rows of the texts that some protocol ranks.
        first_stage: None where every pair of them is scored.
        candidates: how many the first stage leaves of each row and column.
        pairs_per_batch: in a forward pass.
        identity: everything that the scores depend on; JSON-ready.
    """

    tiles: TilePlan
    needed: Rows
    first_stage: FirstStage | None
    candidates: int
    pairs_per_batch: int
    identity: Mapping[str, Any]


def _plan(evaluation: PoolEvaluation, run: RunView, scorer: PairScorer, texts: EncodedTexts) -> _Plan:
    pool, rerank = evaluation.pool, evaluation.rerank
    num_images = len(pool.image_ids)
    needed = needed_texts(pool, evaluation.protocols)
    first_stage, spread = None, 1
    block, pairs_per_batch = run.ranks.from_main(lambda: _sizes(scorer, pool, evaluation.config.pairs_per_batch))
    with run.ranks.together():
        if rerank is not None:
            first_stage = read_first_stage(rerank.scores, pool.image_ids, pool.text_ids)
    if rerank is not None:
        # few pairs of a tile are scored, so it spans more of them
        spread = max(1, num_images * len(pool.texts) // (rerank.candidates * (num_images + len(pool.texts))))
    tiles = TilePlan(
        num_images,
        texts.lengths,
        needed,
        pairs_per_batch=pairs_per_batch * spread,
        images_per_block=block,
        texts_per_group=TOWER_TEXTS if scorer.backbone.two_towers else TEXTS_PER_GROUP,
    )
    identity = {
        **run.identity(),
        "pool": pool.fingerprint,
        "texts": hashlib.blake2b(needed.tobytes(), digest_size=8).hexdigest(),
        "score": evaluation.config.score,
        "pairs_per_batch": pairs_per_batch,
        "images_per_block": block,
        "first stage": [first_stage.identity, rerank.candidates] if first_stage and rerank else None,
    }
    return _Plan(tiles, needed, first_stage, rerank.candidates if rerank else 0, pairs_per_batch, identity)


def _sizes(scorer: PairScorer, pool: CandidatePool, pairs_per_batch: int | None) -> tuple[int, int]:
    """Images in a block, and pairs in a forward pass."""
    image_bytes = scorer.image_bytes(pool.image_ids[0])
    images = max(1, part_bytes(scorer.device) // image_bytes)
    return images, pairs_per_batch or scorer.pairs_at_once(pool.image_ids[0])


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
    was_there = matrix.prepare(plan.tiles, plan.identity, facts, leave_out)
    is_dense = not was_there and plan.first_stage is None
    return np.arange(len(plan.tiles)) if is_dense else unfinished(matrix.open(), matrix.open_checksums(), plan.tiles)


class _Batch(NamedTuple):
    """Scores that are under way, and where in the matrix they belong: a block, or pairs of a row and a column."""

    place: tuple[slice | Rows, Rows]
    scores: OnTheWay


@dataclass(frozen=True)
class _PoolWork:
    """What scoring a pool works on."""

    scorer: PairScorer
    pool: CandidatePool
    texts: EncodedTexts
    tiles: TilePlan
    pairs_per_batch: int
    scores: Scores
    checksums: Checksums

    def tile_by_tile(self, numbers: Rows) -> Iterator[None]:
        """Scores one tile each time it is asked; parts of images stay for a block, those of texts for a group.

        The scores of a tile are written when the next one is under way, the last ones when it is asked once more.
        """
        block = group = -1
        under_way: list[_Batch] = []
        number_under_way = -1
        images: Part = {}
        tile_images: Part = {}
        texts: Part = {}
        for number in numbers:
            tile = self.tiles[number]
            first = self.tiles.blocks[tile.block].start
            if tile.block != block:
                block, group = tile.block, -1
                images = tile_images = {}  # the old block has to go before the new one comes
                images = self.scorer.region_part(self.pool.image_ids[first : self.tiles.blocks[block].stop])
            if tile.group != group:
                group, texts = tile.group, self.scorer.text_part(self.texts, tile.texts)
            tile_images = take(images, slice(tile.images.start - first, tile.images.stop - first))
            started = self.started(texts, tile_images, (tile.images, tile.texts))
            self.write(number_under_way, under_way)
            number_under_way, under_way = number, started
            yield
        self.write(number_under_way, under_way)

    def started(self, texts: Part, images: Part, place: tuple[slice, Rows]) -> list[_Batch]:
        """Starts to score what is not left out of the tile at ``place``."""
        wanted = ~np.isneginf(self.scores[place])
        if wanted.all() and wanted.size <= self.pairs_per_batch:
            return [_Batch(place, OnTheWay(self.scorer.all_pairs(texts, images)))]
        rows, columns = np.nonzero(wanted)
        batches = []
        for start in range(0, len(rows), self.pairs_per_batch):
            some = slice(start, start + self.pairs_per_batch)
            batch = self.scorer.scores(take(texts, columns[some]), take(images, rows[some]))
            in_matrix = place[0].start + rows[some], place[1][columns[some]]
            batches.append(_Batch(in_matrix, OnTheWay(batch)))
        return batches

    def write(self, number: int, batches: Sequence[_Batch]) -> None:
        """Waits for the scores of a tile that are under way, and writes them and then their checksum."""
        for batch in batches:
            self.scores[batch.place] = batch.scores.values()
        if number >= 0:
            self.checksums[number] = tile_checksum(self.scores, self.tiles[number], number)

    def flush(self) -> None:
        """Begins to bring to the disk what is written."""
        self.scores.flush()  # type: ignore[attr-defined]  # they are memmaps
        self.checksums.flush()  # type: ignore[attr-defined]


def _fill(work: _PoolWork, run: RunView, split: str, pending: Rows) -> None:
    """Scores the pending tiles; rank r takes every world-size-th of them, so nothing is padded to even out."""
    ranks = run.ranks
    left = sum(work.tiles[number].pairs for number in pending)
    mine = work.tile_by_tile(pending[ranks.rank :: ranks.world_size])
    done = unmeasured = 0
    started = flushed = time.monotonic()
    for start in range(0, len(pending), ranks.world_size):
        run.leave_if_asked("an evaluation")
        with ranks.together():
            if start + ranks.rank < len(pending):
                next(mine)
        if time.monotonic() - flushed > _FLUSH_SECONDS:
            work.flush()
            flushed = time.monotonic()
        done += sum(work.tiles[number].pairs for number in pending[start : start + ranks.world_size])
        if not start:  # the first tiles warm everything up
            unmeasured, started = done, time.monotonic()
        run.progress(f"scoring {split}", done, left)
    with ranks.together():
        next(mine, None)
    work.flush()
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
