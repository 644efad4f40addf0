"""Ranks and scores of image-text retrieval from a matrix of matching scores: rows are images, columns captions.

The matrix is read in blocks of rows and nothing is sorted: a rank is a number of better candidates, so a memory-mapped
matrix larger than memory will do. Papers differ in who competes with whom (``Protocol``) and in what equal scores are
worth (``TiePolicy``); both belong beside every number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from vlrun import DataError, first_few

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Ints: TypeAlias = NDArray[np.int64]

TiePolicy: TypeAlias = Literal["stable_low_index_first", "optimistic", "pessimistic"]
"""Where a right candidate stands among wrong ones of the same score.

``stable_low_index_first``: behind those of lower index, as a stable sort of the negated scores has it.
``optimistic``: before all of them; constant scores give 100 % recall.
``pessimistic``: behind all of them; constant scores give 0 %.
"""

TIE_POLICIES: tuple[TiePolicy, ...] = get_args(TiePolicy)

_BLOCK_ELEMENTS = 1 << 22  # 16 MiB of float32, and a few masks of 4 MiB each


@dataclass(frozen=True)
class Pool:
    """What competes with one another: consecutive rows, and columns in ascending order."""

    images: range
    captions: Ints


@dataclass(frozen=True)
class Protocol:
    """How a matrix is cut into pools.

    Attributes:
        captions_per_image: only so many first captions of each image; None: all.
        folds, images_per_fold: pools of so many consecutive images, whose scores are averaged; None: one of all images.
    """

    name: str
    summary: str
    captions_per_image: int | None = None
    folds: int = 1
    images_per_fold: int | None = None

    def fits(self, num_images: int) -> bool:
        """Whether it is defined for so many images."""
        return self.images_per_fold is None or self.images_per_fold * self.folds == num_images

    def pools(self, caption_to_image: ArrayLike, num_images: int) -> list[Pool]:
        """Cuts images and captions into the pools that are ranked.

        Raises:
            DataError: the number of images is not that of the protocol.
        """
        owner = _owners(caption_to_image, num_images)
        size = num_images if self.images_per_fold is None else self.images_per_fold
        if not self.fits(num_images):
            raise DataError(
                f"retrieval protocol '{self.name}' is defined for {size * self.folds:,} images ({self.folds} folds of "
                f"{size:,}); there are {num_images:,}. Use another one, such as 'all'"
            )
        taken = _positions(owner) < (self.captions_per_image or len(owner))
        folds = (range(fold * size, (fold + 1) * size) for fold in range(self.folds))
        return [Pool(fold, np.flatnonzero(taken & (owner >= fold.start) & (owner < fold.stop))) for fold in folds]


_FOLDS = "mean over five folds of 1,000 consecutive images and the first five captions of each"
_KNOWN = (
    Protocol("all", "every image and every caption in one pool"),
    Protocol("first-five", "one pool of every image and its first five captions", 5),
    Protocol("5-fold-1k", _FOLDS, 5, folds=5, images_per_fold=1000),
    Protocol("first-caption", "one pool of every image and its first caption alone", 1),
)
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({protocol.name: protocol for protocol in _KNOWN})
"""``first-five``: COCO's 5k test (25,000 of 25,010 captions); of Flickr30k the same as ``all``. ``5-fold-1k``: VSE++'s
1k test. ``first-caption``: LXMERT-S's text retrieval; its image retrieval is that of ``all``."""


@dataclass(frozen=True)
class QueryRanks:
    """How many wrong candidates the best right one of each query competes with; each (Q,)."""

    better: Ints  # with a higher score
    tied: Ints  # with the same score
    tied_before: Ints  # those of them with a lower index than the first right candidate of that score

    def ranks(self, ties: TiePolicy = "stable_low_index_first") -> Ints:
        """Ranks from 0 (Q,)."""
        if ties == "optimistic":
            return self.better
        return self.better + (self.tied if ties == "pessimistic" else self.tied_before)


@dataclass(frozen=True)
class PoolRanks:
    """Text retrieval, image -> its best caption, and image retrieval, caption -> its image, of one pool."""

    text_retrieval: QueryRanks
    image_retrieval: QueryRanks


@dataclass(frozen=True)
class DirectionScores:
    """Scores of one direction; means over the folds, if there are several."""

    r1: float  # share of queries with a right candidate at the top, in percent
    r5: float  # ... among the first five
    r10: float
    median_rank: float  # floor of the median of ranks from 0, plus 1 (VSE++, VOLTA, LXMERT-S)
    median_rank_plain: float  # median of ranks from 1, which may be a half
    mean_rank: float  # of ranks from 1
    tied_queries: float  # share of queries whose best right candidate is tied with a wrong one, in percent
    queries: int  # in all folds together


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of both directions, with what makes them comparable; ``pools`` has (images, captions) of each."""

    text_retrieval: DirectionScores
    image_retrieval: DirectionScores
    protocol: Protocol
    ties: TiePolicy
    pools: tuple[tuple[int, int], ...]

    @property
    def rsum(self) -> float:
        """R@1 + R@5 + R@10 of both directions, 600 at most."""
        return sum(scores.r1 + scores.r5 + scores.r10 for scores in (self.text_retrieval, self.image_retrieval))


def evaluate_retrieval(
    scores: NDArray[Any],
    caption_to_image: ArrayLike,
    protocol: Protocol = PROTOCOLS["all"],
    ties: TiePolicy = "stable_low_index_first",
) -> RetrievalScores:
    """Ranks every pool of ``protocol`` and averages over the pools; arguments and errors as of ``rank_pool``."""
    pools = protocol.pools(caption_to_image, len(scores))
    return mean_over_pools([rank_pool(scores, caption_to_image, pool) for pool in pools], pools, protocol, ties)


def mean_over_pools(
    ranks: Sequence[PoolRanks], pools: Sequence[Pool], protocol: Protocol, ties: TiePolicy = "stable_low_index_first"
) -> RetrievalScores:
    """The scores of every pool of ``protocol``, averaged."""
    return RetrievalScores(
        _mean_scores([_scores(each.text_retrieval, ties) for each in ranks]),
        _mean_scores([_scores(each.image_retrieval, ties) for each in ranks]),
        protocol,
        ties,
        tuple((len(pool.images), len(pool.captions)) for pool in pools),
    )


def rank_pool(
    scores: NDArray[Any], caption_to_image: ArrayLike, pool: Pool | None = None, block_elements: int = _BLOCK_ELEMENTS
) -> PoolRanks:
    """Ranks the images and captions of one pool against each other.

    Args:
        scores: (images, captions), higher is better; may be memory-mapped. Scores are compared as they are stored:
            float16 has many ties. -inf is a pair that was left out; as a right one it ranks last.
        caption_to_image: (captions,) row of each caption's image; an image may have any number of captions but none.
        pool: what competes; None: everything.
        block_elements: how many scores are looked at in one go. The result does not depend on it.

    Raises:
        DataError: a score of the pool is not a number, or an image has no caption.
    """
    num_images, num_captions = scores.shape
    owner = _owners(caption_to_image, num_images)
    if len(owner) != num_captions:
        raise ValueError(f"scores {scores.shape} (images, captions) do not fit {len(owner)} owners of captions")
    pool = pool or Pool(range(num_images), np.arange(num_captions))
    columns = pool.captions
    owner = owner[columns] - pool.images.start  # rows from now on count within the pool
    right = np.asarray(scores[owner + pool.images.start, columns])  # (C,) of each caption with its own image
    best, first, own_ties = _best_captions(right, owner, pool)

    rows_better, rows_equal, rows_before = np.zeros((3, len(pool.images)), np.int64)
    columns_better, columns_equal, columns_before = np.zeros((3, len(columns)), np.int64)
    for start, block in _blocks(scores, pool, block_elements):
        stop = start + len(block)
        rows = slice(start, stop)
        rows_better[rows] = (block > best[rows, None]).sum(axis=1)
        equal = block == best[rows, None]
        rows_equal[rows] = equal.sum(axis=1)
        tied = np.flatnonzero(rows_equal[rows] > own_ties[rows])  # few rows, unless scores are coarse
        rows_before[start + tied] = (equal[tied] & (np.arange(len(columns)) < first[start + tied, None])).sum(axis=1)

        columns_better += (block > right).sum(axis=0)
        equal = block == right
        in_block = equal.sum(axis=0)
        columns_equal += in_block
        columns_before += np.where(owner >= stop, in_block, 0)
        here = np.flatnonzero((owner >= start) & (owner < stop))  # captions whose image is in this block
        columns_before[here] += (equal[:, here] & (np.arange(start, stop)[:, None] < owner[here])).sum(axis=0)
    return PoolRanks(
        text_retrieval=_left_out_last(QueryRanks(rows_better, rows_equal - own_ties, rows_before), best),
        image_retrieval=_left_out_last(QueryRanks(columns_better, columns_equal - 1, columns_before), right),
    )


def _left_out_last(ranks: QueryRanks, scores: NDArray[Any]) -> QueryRanks:
    """A right candidate that a first stage left out (-inf) comes behind everything, whatever the policy on ties."""
    left_out = np.isneginf(scores)
    return QueryRanks(
        np.where(left_out, ranks.better + ranks.tied, ranks.better),
        np.where(left_out, 0, ranks.tied),
        np.where(left_out, 0, ranks.tied_before),
    )


def _owners(caption_to_image: ArrayLike, num_images: int) -> Ints:
    owner = np.asarray(caption_to_image)
    if owner.ndim != 1 or owner.dtype.kind not in "iu":
        raise ValueError(f"caption_to_image should be whole numbers (captions,), it is {owner.dtype} {owner.shape}")
    if len(owner) and not 0 <= owner.min() <= owner.max() < num_images:
        raise ValueError(f"caption_to_image holds rows {owner.min()} to {owner.max()}; there are {num_images} images")
    return owner.astype(np.int64)


def _positions(owner: Ints) -> Ints:
    """Which caption of its image each one is, from 0, in the order of the columns."""
    order = np.argsort(owner, kind="stable")
    sorted_owner = owner[order]
    positions = np.empty(len(owner), np.int64)
    positions[order] = np.arange(len(owner)) - np.searchsorted(sorted_owner, sorted_owner)
    return positions


def _best_captions(right: NDArray[Any], owner: Ints, pool: Pool) -> tuple[NDArray[Any], Ints, Ints]:
    """Of each image: the score of its best caption, the first column that has it, and how many of its own have it."""
    num_images = len(pool.images)
    captions = np.bincount(owner, minlength=num_images)
    if len(without := np.flatnonzero(captions == 0)) or num_images == 0:
        rows = ", ".join(first_few([str(pool.images[row]) for row in without], 5))
        raise DataError(f"score matrix: {len(without):,} of {num_images:,} images have no caption (rows {rows})")
    order = np.lexsort((-np.arange(len(owner)), right, owner))  # by image, then score, then from the last column
    ends = np.cumsum(captions) - 1
    first = order[ends]
    best = right[first]
    own_ties = np.bincount(owner[right == best[owner]], minlength=num_images)
    return best, first, own_ties


def _blocks(scores: NDArray[Any], pool: Pool, block_elements: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """First row, within the pool, and content of each block of rows; checked to hold numbers."""
    columns: Any = pool.captions
    if len(columns) and columns[-1] - columns[0] + 1 == len(columns):
        columns = slice(columns[0], columns[-1] + 1)  # as they lie, without a copy
    height = max(1, block_elements // max(1, len(pool.captions)))
    for start in range(0, len(pool.images), height):
        rows = pool.images[start : start + height]
        block = np.asarray(scores[rows.start : rows.stop][:, columns])
        if block.dtype.kind == "f" and np.isnan(block).any():
            row, column = np.argwhere(np.isnan(block))[0]
            raise DataError(
                f"score matrix: row {rows[row]}, column {pool.captions[column]} is not a number (NaN), which has no "
                "rank. Is the matrix complete, and are the weights finite?"
            )
        yield start, block


def _scores(queries: QueryRanks, ties: TiePolicy) -> DirectionScores:
    ranks = queries.ranks(ties)
    median = float(np.median(ranks))
    return DirectionScores(
        r1=100.0 * float((ranks < 1).mean()),
        r5=100.0 * float((ranks < 5).mean()),
        r10=100.0 * float((ranks < 10).mean()),
        median_rank=float(np.floor(median)) + 1.0,
        median_rank_plain=median + 1.0,
        mean_rank=float(ranks.mean()) + 1.0,
        tied_queries=100.0 * float((queries.tied > 0).mean()),
        queries=len(ranks),
    )


def _mean_scores(folds: Sequence[DirectionScores]) -> DirectionScores:
    columns = {field.name: [getattr(fold, field.name) for fold in folds] for field in fields(DirectionScores)}
    queries = sum(columns.pop("queries"))
    return DirectionScores(**{name: float(np.mean(values)) for name, values in columns.items()}, queries=queries)
