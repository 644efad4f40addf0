"""Predictions of retrieval, one for each query, and the scores that follow from them without the matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun import DataError, Dataset, Metric, Prediction, Score, Units, error_by_resampling, error_of_mean
from vlrun.blocks.predictions import mismatches
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.ranking import (
    PROTOCOLS,
    DirectionScores,
    Pool,
    PoolRanks,
    Protocol,
    QueryRanks,
    RetrievalScores,
    TiePolicy,
    mean_over_pools,
    rank_pool,
)

SHOWN_CANDIDATES = 10
_BLOCK_ELEMENTS = 1 << 22

_RECALLS = (("R@1", "r1"), ("R@5", "r5"), ("R@10", "r10"))
_RANKS = (("median rank", "median_rank"), ("mean rank", "mean_rank"))


def image_query(image_id: str) -> str:
    """The id of the prediction of text retrieval for an image; that of image retrieval has the id of its text."""
    return f"image:{image_id}"


def pool_predictions(scores: NDArray[Any], pool: CandidatePool, protocols: Sequence[Protocol]) -> list[Prediction]:
    """What a score matrix says about each query: first the texts, then the images.

    Args:
        scores: (images, texts); -inf where a pair was left out: by a first stage, or as no protocol needs it.

    Returns:
        Fields ``ranks``: protocol -> [wrong candidates with a better score, with the same score, those of them with a
        lower index]; ``best``: ids of the ten best candidates of all, and ``scores``: theirs.

    Raises:
        DataError: a protocol does not fit the pool, or a score is not a number.
    """
    text_ranks: list[dict[str, list[int]]] = [{} for _ in pool.texts]
    image_ranks: list[dict[str, list[int]]] = [{} for _ in pool.image_ids]
    for protocol in protocols:
        for part in protocol.pools(pool.owner, len(pool.image_ids)):
            ranks = rank_pool(scores, pool.owner, part)
            for row, values in zip(part.captions.tolist(), _rows(ranks.image_retrieval), strict=True):
                text_ranks[row][protocol.name] = values
            for row, values in zip(part.images, _rows(ranks.text_retrieval), strict=True):
                image_ranks[row][protocol.name] = values
    best_images, best_texts = best_candidates(scores, SHOWN_CANDIDATES)
    text_queries = zip(pool.text_ids, text_ranks, best_images, strict=True)
    image_queries = zip(pool.image_ids, image_ranks, best_texts, strict=True)
    return [
        *(Prediction(name, _fields(ranks, best, pool.image_ids)) for name, ranks, best in text_queries),
        *(Prediction(image_query(name), _fields(ranks, best, pool.text_ids)) for name, ranks, best in image_queries),
    ]


def best_candidates(
    scores: NDArray[Any], count: int, block_elements: int = _BLOCK_ELEMENTS
) -> tuple[list[list[tuple[int, float]]], list[list[tuple[int, float]]]]:
    """The ``count`` best rows of each column and the best columns of each row, best first, with their scores.

    Entries of -inf are no candidates. The matrix may be memory-mapped; it is read once, in blocks of rows.
    """
    num_images, num_texts = scores.shape
    height = max(1, block_elements // max(1, num_texts))
    rows = np.empty((0, num_texts), np.int64)
    values = np.empty((0, num_texts), scores.dtype)
    best_columns: list[list[tuple[int, float]]] = []
    for start in range(0, num_images, height):
        block = np.asarray(scores[start : start + height])
        best_columns += [_listed(np.arange(num_texts), line, count) for line in block]
        numbers = np.broadcast_to(np.arange(start, start + len(block))[:, None], block.shape)
        rows, values = np.concatenate([rows, numbers]), np.concatenate([values, block])
        if len(rows) > count:
            kept = np.argpartition(-values, count - 1, axis=0)[:count]
            rows, values = np.take_along_axis(rows, kept, 0), np.take_along_axis(values, kept, 0)
    best_rows = [_listed(rows[:, column], values[:, column], count) for column in range(num_texts)]
    return best_rows, best_columns


def _listed(numbers: NDArray[np.int64], values: NDArray[Any], count: int) -> list[tuple[int, float]]:
    if len(values) > count:
        kept = np.argpartition(-values, count - 1)[:count]
        numbers, values = numbers[kept], values[kept]
    order = np.lexsort((numbers, -values))
    return [(int(numbers[at]), float(values[at])) for at in order if values[at] > -np.inf]


def _rows(ranks: QueryRanks) -> Iterator[list[int]]:
    return iter(np.stack([ranks.better, ranks.tied, ranks.tied_before], axis=1).tolist())


def _fields(ranks: Mapping[str, list[int]], best: Sequence[tuple[int, float]], ids: Sequence[str]) -> dict[str, Any]:
    return {"ranks": dict(ranks), "best": [ids[row] for row, _ in best], "scores": [score for _, score in best]}


def usable_protocols(names: Sequence[str], num_images: int) -> list[Protocol]:
    """Those that are defined for so many images; ``all`` where none is.

    A run refuses splits that a protocol does not fit, but between epochs a part of a split may be enough.
    """
    return [PROTOCOLS[name] for name in names if PROTOCOLS[name].fits(num_images)] or [PROTOCOLS["all"]]


def needed_texts(pool: CandidatePool, protocols: Sequence[Protocol]) -> NDArray[np.int64]:
    """Rows of the texts that take part in any of ``protocols``, ascending."""
    parts = [part for protocol in protocols for part in protocol.pools(pool.owner, len(pool.image_ids))]
    return np.unique(np.concatenate([part.captions for part in parts]))


class RetrievalMetric(Metric):
    """Recall at 1, 5 and 10, median and mean rank of both directions, under each protocol that fits.

    IR is image retrieval, text -> image; TR text retrieval, image -> its best text. ``rsum`` adds all six recalls,
    ``mean recall`` is their mean. Scores of all protocols but the first have its name in brackets.
    """

    def __init__(
        self,
        protocols: Sequence[str],
        ties: TiePolicy,
        facts: Mapping[str, str],
        pool_of: Callable[[Dataset[Any]], CandidatePool] = CandidatePool.of,
    ) -> None:
        """Keeps what the scores depend on.

        Args:
            facts: copied into the protocol of every score.
            pool_of: what competes in a dataset; a task that has read it already gives its own.
        """
        self.protocols, self.ties, self.facts, self.pool_of = protocols, ties, facts, pool_of

    def __call__(self, predictions: Sequence[Prediction], dataset: Dataset[Any]) -> list[Score]:
        pool = self.pool_of(dataset)
        queries = [*pool.text_ids, *map(image_query, pool.image_ids)]
        if problems := mismatches(predictions, queries, split=dataset.split, unit="queries"):
            raise DataError(problems)
        given = {prediction.id: prediction.fields.get("ranks") for prediction in predictions}
        scores: list[Score] = []
        protocols = usable_protocols(self.protocols, len(pool.image_ids))
        for protocol in protocols:
            pools = protocol.pools(pool.owner, len(pool.image_ids))
            ranks = [_ranks(pool, part, protocol, given) for part in pools]
            means = mean_over_pools(ranks, pools, protocol, self.ties)
            facts = {**self.facts, **_facts(means)}
            suffix = "" if protocol is protocols[0] else f" [{protocol.name}]"
            errors = _Errors(pool, pools, ranks, self.ties, (dataset.split, protocol.name))
            scores += _scores(means, errors, suffix, facts, primary=not suffix)
        return scores


def _ranks(pool: CandidatePool, part: Pool, protocol: Protocol, given: Mapping[str, Any]) -> PoolRanks:
    texts = [pool.text_ids[row] for row in part.captions.tolist()]
    images = [image_query(pool.image_ids[row]) for row in part.images]
    return PoolRanks(
        text_retrieval=_query_ranks(images, protocol.name, given),
        image_retrieval=_query_ranks(texts, protocol.name, given),
    )


def _query_ranks(queries: Sequence[str], protocol: str, given: Mapping[str, Any]) -> QueryRanks:
    rows = [given[query].get(protocol) if isinstance(given[query], dict) else None for query in queries]
    wrong = [query for query, row in zip(queries, rows, strict=True) if not _is_ranks(row)]
    if wrong:
        raise DataError(
            f"{len(wrong):,} predictions have no ranks under protocol '{protocol}' (three whole numbers), such as that "
            f"of '{wrong[0]}'; score the split again with this protocol: runner evaluate RUN"
        )
    better, tied, tied_before = np.array(rows, np.int64).T
    return QueryRanks(better, tied, tied_before)


def _is_ranks(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(n) is int and 0 <= n < 2**31 for n in value)


def _facts(means: RetrievalScores) -> dict[str, str]:
    images, texts = means.pools[0]
    several = f"{len(means.pools)} x " if len(means.pools) > 1 else ""
    return {
        "retrieval protocol": f"{means.protocol.name}: {means.protocol.summary}",
        "candidate pool": f"{several}{images:,} images, {texts:,} texts",
        "ties": means.ties,
    }


@dataclass(frozen=True)
class _Errors:
    """Standard errors of scores that are means over ``pools``, with ``ranks`` of each; queries count as independent.

    Attributes:
        address: what the scores are of, for the draws of a bootstrap.
    """

    candidates: CandidatePool
    pools: Sequence[Pool]
    ranks: Sequence[PoolRanks]
    ties: TiePolicy
    address: tuple[str, ...]

    def of(self, field: str, direction: str) -> float | None:
        """Of one score of one direction, ``IR`` or ``TR``."""
        queries = [each.image_retrieval if direction == "IR" else each.text_retrieval for each in self.ranks]
        if field == "tied_queries":
            return _over_pools([error_of_mean(100.0 * (each.tied > 0)) for each in queries])
        ranks = [each.ranks(self.ties) for each in queries]
        if field == "median_rank":
            address = (*self.address, direction, field)
            return _over_pools(
                [
                    error_by_resampling(len(own), lambda rows, own=own: float(np.floor(np.median(own[rows]))), *address)
                    for own in ranks
                ]
            )
        if field == "mean_rank":
            return _over_pools([error_of_mean(own) for own in ranks])
        limit = int(field.removeprefix("r"))
        return _over_pools([error_of_mean(100.0 * (own < limit)) for own in ranks])

    def units(self, field: str, direction: str) -> Units | None:
        """What a recall of one direction is the mean of: the queries; of other scores nothing."""
        if field not in {field for _, field in _RECALLS}:
            return None
        limit = int(field.removeprefix("r"))
        queries = [each.image_retrieval if direction == "IR" else each.text_retrieval for each in self.ranks]
        return _as_units([100.0 * (each.ranks(self.ties) < limit) for each in queries])

    def of_sum(self) -> float | None:
        """Of the sum of all six recalls; an image with its captions is one unit, as all six see the same queries."""
        return _over_pools([error_of_mean(values) for values in self._of_images()])

    def units_of_sum(self) -> Units | None:
        """What that sum is the mean of."""
        return _as_units(self._of_images())

    def _of_images(self) -> list[NDArray[np.float64]]:
        """Of each pool, what each image adds to the sum of all recalls, which is the mean of it.

        To first order the sum varies as the mean over images of the image's own recalls, plus what its captions add.
        """
        found = []
        for pool, each in zip(self.pools, self.ranks, strict=True):
            images, texts = (
                sum(100.0 * (queries.ranks(self.ties) < limit) for limit in (1, 5, 10))
                for queries in (each.text_retrieval, each.image_retrieval)
            )
            owner = self.candidates.owner[pool.captions] - pool.images.start
            of_texts = np.bincount(owner, weights=texts - texts.mean(), minlength=len(images)) / len(texts)
            found.append(len(images) * of_texts + images + texts.mean())
        return found


def _as_units(pools: Sequence[NDArray[Any]]) -> Units | None:
    """The units of a mean over pools; None where these differ in size, so that units would not weigh alike."""
    return Units(np.concatenate(pools)) if len({len(each) for each in pools}) == 1 else None


def _over_pools(errors: Sequence[float | None]) -> float | None:
    """The error of the mean of independent scores with these errors."""
    known = [error for error in errors if error is not None]
    return None if len(known) < len(errors) or not known else math.hypot(*known) / len(known)


def _scores(
    means: RetrievalScores, errors: _Errors, suffix: str, facts: Mapping[str, str], primary: bool
) -> list[Score]:
    directions = (("IR", means.image_retrieval), ("TR", means.text_retrieval))
    queries = sum(direction.queries for _, direction in directions)

    def score(direction: str, shown: str, field: str, scores: DirectionScores, **options: Any) -> Score:
        return Score(
            f"{direction} {shown}{suffix}",
            getattr(scores, field),
            count=scores.queries,
            protocol=facts,
            standard_error=errors.of(field, direction),
            units=errors.units(field, direction),
            **options,
        )

    error = errors.of_sum()
    return [
        *(score(name, shown, field, scores) for name, scores in directions for shown, field in _RECALLS),
        Score(f"rsum{suffix}", means.rsum, "", queries, facts, standard_error=error, units=errors.units_of_sum()),
        Score(
            f"mean recall{suffix}",
            means.rsum / 6,
            "%",
            queries,
            facts,
            primary,
            standard_error=None if error is None else error / 6,
        ),
        *(
            score(name, shown, field, scores, unit="", higher_is_better=False, detail=True)
            for name, scores in directions
            for shown, field in _RANKS
        ),
        *(
            score(name, "tied queries", "tied_queries", scores, higher_is_better=False, detail=True)
            for name, scores in directions
        ),
    ]
