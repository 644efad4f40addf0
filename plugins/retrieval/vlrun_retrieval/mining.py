"""Mining hard negatives with the model of a run: drawn candidates are scored, the best are kept.

The work is cut into blocks of anchors, which go to processes in turns. What is drawn depends on (seed, epoch, anchor),
and a score on its block alone, so the result is the same for any number of processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun import DataError, RanksView, RunView, Task, UsageError
from vlrun.data.splits import JoinedSplits
from vlrun.files import atomic_write, lock_file, read_arrays
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.config import NEGATIVES_SUFFIX
from vlrun_retrieval.hard_negatives import (
    AnchorKind,
    HardNegatives,
    draw_candidates,
    hardest,
    read_facts,
    read_negatives,
    write_negatives,
)
from vlrun_retrieval.matching import MatchingTask
from vlrun_retrieval.scorer import EncodedTexts, OnTheWay, PairScorer, Part, Rows, bytes_of, take
from vlrun_retrieval.sizes import part_bytes

_ANCHORS_PER_BLOCK = 16384
_PASSING_AT_ONCE = 512


@dataclass(frozen=True)
class MiningPlan:
    """For which epoch is mined, how many candidates each anchor draws and keeps, and whether texts are anchors too."""

    epoch: int
    candidates: int
    keep: int
    images_of_texts: bool = True


def negatives_of_epoch(task: MatchingTask, run: RunView, pool: CandidatePool, plan: MiningPlan) -> HardNegatives:
    """The hard negatives of the plan's epoch, by the model as it is; all ranks call it and share the work.

    They are mined once and kept in the run folder; a run that is resumed within that epoch, or in a later one that
    still uses them, reads them back.

    Raises:
        StoppedOnRequest: a signal asked for it; finished blocks are kept.
    """
    ranks = run.ranks
    path = negatives_folder(run) / f"{run.name}_epoch{plan.epoch}{NEGATIVES_SUFFIX}"
    facts = {"pool": pool.fingerprint, "seed": run.seed, **asdict(plan)}
    if not ranks.from_main(lambda: path.is_file() and read_facts(path) == facts):
        negatives = mine_negatives(task, run, pool, plan)
        ranks.from_main(lambda: write_negatives(path, pool, negatives, facts))
    with ranks.together():
        return read_negatives(path, pool)


def mine_file(
    task: Task[Any], run: RunView, out: Path, *, candidates: int, keep: int, origin: Mapping[str, str]
) -> None:
    """Mines hard negatives of the splits of a finished run, joined, and writes them to ``out``.

    Args:
        origin: what else the file is to say about the run.

    Raises:
        UsageError: the task does not rank images and texts.
    """
    if not isinstance(task, MatchingTask):
        raise UsageError(f"task '{run.name}' of this run does not match images and texts, so it has no negatives")
    dataset = JoinedSplits(list(run.datasets.values()))
    pool = CandidatePool.of(dataset)
    negatives = mine_negatives(task, run, pool, MiningPlan(0, candidates, keep))
    facts = {
        "run": run.folder.name,
        **origin,
        "split": dataset.split,
        "annotations": dict(dataset.protocol),
        "seed": run.seed,
        "candidates": candidates,
        "keep": keep,
    }
    run.ranks.from_main(lambda: write_negatives(out, pool, negatives, facts))


def negatives_folder(run: RunView) -> Path:
    """Where the negatives of a run lie, and finished blocks of those that are being mined."""
    return run.folder / "negatives"


def mine_negatives(task: MatchingTask, run: RunView, pool: CandidatePool, plan: MiningPlan) -> HardNegatives:
    """The hardest texts for every image of ``pool``, and the hardest images for every text.

    Raises:
        StoppedOnRequest: a signal asked for it.
    """
    scorer, folder = PairScorer.of_run(run, task.pair_scores), _blocks_folder(run, pool, plan)
    anchors: dict[AnchorKind, int] = {"image": len(pool.image_ids), "text": len(pool.texts)}
    if not plan.images_of_texts:
        del anchors["text"]
    total, done = plan.candidates * sum(anchors.values()), 0
    tables: dict[AnchorKind, NDArray[np.int32]] = {"text": np.empty((len(pool.texts), 0), np.int32)}
    with _alone(folder, run.ranks), scorer.at_work():
        with run.ranks.together():
            texts = scorer.encoded(pool.texts, pool.image_ids[0])
        pairs_per_batch = run.ranks.from_main(
            lambda: task.config.pairs_per_batch or scorer.pairs_at_once(pool.image_ids[0])
        )
        mining = Mining(
            scorer,
            pool,
            texts,
            lambda kind, anchor: draw_candidates(pool, run.seed, plan.epoch, kind, anchor, plan.candidates),
            plan.keep,
            pairs_per_batch,
        )
        for kind, count in anchors.items():
            tables[kind] = _mine_kind(run, mining, kind, count, folder, (done, total))
            done += plan.candidates * count
        run.ranks.barrier()  # all have read all blocks
        run.ranks.from_main(lambda: shutil.rmtree(folder, ignore_errors=True))
    return HardNegatives(tables["image"], tables["text"])


def _blocks_folder(run: RunView, pool: CandidatePool, plan: MiningPlan) -> Path:
    """Where finished blocks wait for the others. Another model, pool or plan has another one."""
    facts = f"{json.dumps(run.identity(), sort_keys=True)} {pool.fingerprint} {plan} {run.seed}"
    digest = hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()
    return negatives_folder(run) / f".blocks-{digest}"


def _mine_kind(
    run: RunView, mining: Mining, kind: AnchorKind, count: int, folder: Path, progress: tuple[int, int]
) -> NDArray[np.int32]:
    """The table of all anchors of a kind, on every rank; blocks of them go to the ranks in turns.

    Args:
        progress: pairs that are scored, and pairs in all.
    """
    ranks = run.ranks
    height = ranks.from_main(lambda: mining.anchors_per_block(kind))
    done, total = progress
    blocks = [np.arange(start, min(start + height, count)) for start in range(0, count, height)]
    files = [folder / f"{kind}-{height}-{number}.npz" for number in range(len(blocks))]

    def work() -> Iterator[int]:
        for number in range(ranks.rank, len(blocks), ranks.world_size):
            if _is_whole(files[number]):  # scored before a kill
                yield len(blocks[number])
                continue
            table = np.empty((len(blocks[number]), mining.keep), np.int32)
            yield from mining.fill(table, kind, blocks[number])
            with atomic_write(files[number], "wb") as file:
                np.savez(file, table=table)

    share = work()
    while True:  # ranks have more or fewer batches; all look around after each of them
        run.leave_if_asked("mining")
        with ranks.together():
            own = next(share, 0)
        (scored,) = ranks.sum_counts([float(own)])
        if not scored:
            break
        done += int(scored)
        run.progress("mining hard negatives", min(done, total), total)
    ranks.barrier()
    with ranks.together():
        return np.concatenate([read_arrays(file, ["table"])["table"] for file in files])


def _is_whole(block: Path) -> bool:
    """Whether a finished block is there and its checksum is right."""
    try:
        return bool(read_arrays(block, ["table"]))
    except (FileNotFoundError, DataError):
        return False


@contextmanager
def _alone(folder: Path, ranks: RanksView) -> Iterator[None]:
    """While it is open, nobody else mines the same, and removes the blocks when that is done.

    Raises:
        DataError: another process does.
    """
    ranks.from_main(lambda: folder.mkdir(parents=True, exist_ok=True))
    with ExitStack() as held:

        def lock() -> None:
            try:
                held.callback(os.close, lock_file(folder / ".lock"))
            except BlockingIOError as error:
                raise DataError(f"{folder}: another process is mining this; wait until it has ended") from error

        ranks.from_main(lock)
        yield


@dataclass(frozen=True)
class _Held:
    """Anchors whose parts stay on the device while their candidates pass by: rows of the pool, ascending."""

    rows: Rows
    part: Part


@dataclass(frozen=True)
class Mining:
    """Scores drawn candidates, a block of anchors at a time.

    Attributes:
        encoded: all texts of ``pool``.
        draw: (kind, anchor) -> rows of texts; one that is drawn for a text stands for its image.
    """

    scorer: PairScorer
    pool: CandidatePool
    encoded: EncodedTexts
    draw: Callable[[AnchorKind, int], Rows]
    keep: int
    pairs_per_batch: int

    def anchors_per_block(self, kind: AnchorKind) -> int:
        """So many that their parts take no more than a block of images in an evaluation."""
        if kind == "image":
            bytes_each = float(self.scorer.image_bytes(self.pool.image_ids[0]))
        else:
            longest = np.array([int(self.encoded.lengths.argmax())])
            share = self.encoded.lengths.mean() / self.encoded.lengths.max()
            bytes_each = bytes_of(self.scorer.text_part(self.encoded, longest)) * share
        return min(_ANCHORS_PER_BLOCK, max(1, int(part_bytes(self.scorer.device) / bytes_each)))

    def fill(self, table: NDArray[np.int32], kind: AnchorKind, anchors: Rows) -> Iterator[int]:
        """Writes the hardest of each anchor into ``table`` (n, keep); yields numbers of pairs as they are scored."""
        drawn = np.stack([self.draw(kind, anchor) for anchor in anchors.tolist()])
        candidates = drawn if kind == "image" else self.pool.owner[drawn]
        scores = np.empty(drawn.shape, np.float32)
        yield from self._score(kind, np.repeat(anchors, drawn.shape[1]), candidates.ravel(), scores.ravel())
        table[:] = np.take_along_axis(candidates, hardest(scores, self.keep), axis=1)

    def _score(self, kind: AnchorKind, anchors: Rows, candidates: Rows, scores: NDArray[np.float32]) -> Iterator[int]:
        """Scores anchor i with candidate i into ``scores``.

        Candidates pass by in the order of their rows, so that each is read and computed once a block, however often it
        was drawn.
        """
        held = self._held_images(anchors) if kind == "image" else self._held_texts(anchors)
        order = np.argsort(candidates, kind="stable")
        before: tuple[Rows, OnTheWay] | None = None
        ordered = candidates[order]
        for rows, part in self._passing_texts(candidates) if kind == "image" else self._passing_images(candidates):
            places = [slice(*np.searchsorted(ordered, (row, row + 1))) for row in rows.tolist()]
            here = np.sort(np.concatenate([order[place] for place in places]))
            for group in held:
                pairs = here[np.isin(anchors[here], group.rows)]
                for start in range(0, len(pairs), self.pairs_per_batch):
                    some = pairs[start : start + self.pairs_per_batch]
                    own = take(group.part, np.searchsorted(group.rows, anchors[some]))
                    other = take(part, np.searchsorted(rows, candidates[some]))
                    texts, images = (other, own) if kind == "image" else (own, other)
                    last, before = before, (some, OnTheWay(self.scorer.scores(texts, images)))
                    if last is not None:
                        scores[last[0]] = last[1].values()
                    yield len(some)
        if before is not None:
            scores[before[0]] = before[1].values()

    def _held_images(self, anchors: Rows) -> list[_Held]:
        rows = np.unique(anchors)
        return [_Held(rows, self.scorer.region_part([self.pool.image_ids[row] for row in rows]))]

    def _held_texts(self, anchors: Rows) -> list[_Held]:
        return [_Held(rows, self.scorer.text_part(self.encoded, rows)) for rows in self._by_length(np.unique(anchors))]

    def _passing_images(self, candidates: Rows) -> Iterator[tuple[Rows, Part]]:
        rows = np.unique(candidates)
        for start in range(0, len(rows), _PASSING_AT_ONCE):
            some = rows[start : start + _PASSING_AT_ONCE]
            yield some, self.scorer.region_part([self.pool.image_ids[row] for row in some])

    def _passing_texts(self, candidates: Rows) -> Iterator[tuple[Rows, Part]]:
        for rows in self._by_length(np.unique(candidates)):
            for start in range(0, len(rows), _PASSING_AT_ONCE):
                some = rows[start : start + _PASSING_AT_ONCE]
                yield some, self.scorer.text_part(self.encoded, some)

    def _by_length(self, rows: Rows) -> Iterator[Rows]:
        lengths = self.encoded.lengths[rows]
        return (rows[lengths == length] for length in np.unique(lengths))
