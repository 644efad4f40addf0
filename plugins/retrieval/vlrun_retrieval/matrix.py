"""A score matrix on disk, images x texts, that is filled tile by tile and can be continued after a kill.

It is a NumPy file of float32, memory-mapped by every process of a machine. NaN marks what is not scored yet, -inf what
is left out. A manifest beside it says of which model and pool the scores are; another one starts anew.
"""

from __future__ import annotations

import fcntl
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vlrun import DataError
from vlrun.files import read_object_or_empty, write_json

Scores: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.int64]

TEXTS_PER_GROUP = 32

_ROWS_AT_ONCE = 256
_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Tile:
    """Pairs that are scored in one forward pass: consecutive images with texts of one length.

    Attributes:
        images: rows.
        texts: columns, ascending.
        block: number of the block of images whose parts are on the device together.
        group: number of the group of texts.
    """

    images: slice
    texts: Rows
    block: int
    group: int

    @property
    def pairs(self) -> int:
        """How many there are."""
        height: int = self.images.stop - self.images.start
        return height * len(self.texts)


class TilePlan(Sequence[Tile]):
    """All pairs in tiles, the same for any number of processes, so that every score has the same neighbours.

    Texts are grouped by exact length, which leaves nothing to pad. Blocks of images come first, in them groups of texts
    from short to long, in these the images in runs of ``pairs_per_batch`` pairs. Tiles are made when asked for.
    """

    def __init__(
        self,
        num_images: int,
        lengths: Rows,
        texts: Rows | None = None,
        *,
        pairs_per_batch: int,
        images_per_block: int,
        texts_per_group: int = TEXTS_PER_GROUP,
    ) -> None:
        """Cuts the pairs of images and texts into tiles.

        Args:
            lengths: (T,) tokens of each text.
            texts: columns that are scored at all, ascending; None: all.
        """
        columns = np.arange(len(lengths)) if texts is None else texts
        self.groups = list(_groups(columns, lengths[columns], min(texts_per_group, pairs_per_batch)))
        self.heights = [max(1, pairs_per_batch // len(group)) for group in self.groups]
        starts = range(0, num_images, images_per_block)
        self.blocks = [range(start, min(start + images_per_block, num_images)) for start in starts]
        counts = [-(-len(block) // height) for block in self.blocks for height in self.heights]
        self.ends = list(accumulate(counts))
        self.pairs = num_images * len(columns)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, number: Any) -> Any:
        strip = bisect_right(self.ends, number)
        block, group = divmod(strip, len(self.groups))
        within, height = number - (self.ends[strip - 1] if strip else 0), self.heights[group]
        images = self.blocks[block][within * height : (within + 1) * height]
        return Tile(slice(images.start, images.stop), self.groups[group], block, group)


def _groups(columns: Rows, lengths: Rows, size: int) -> Iterator[Rows]:
    for length in np.unique(lengths):
        rows = columns[lengths == length]
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


class ScoreMatrix:
    """The file of one pool."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path.with_suffix(".json")
        self._lock: IO[str] | None = None

    def acquire(self) -> None:
        """Keeps other evaluations out until ``release``; a process that dies lets go.

        Raises:
            DataError: another process is at work on it, or it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self.path.with_name(f".{self.path.name}.lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{self.path}: another evaluation is filling it; wait until that has ended") from error
        except OSError as error:
            raise DataError(f"{self.path}: cannot write score matrices here: {error.strerror}") from error

    def release(self) -> None:
        """Lets other evaluations in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def prepare(
        self,
        shape: tuple[int, int],
        identity: Mapping[str, Any],
        facts: Mapping[str, Any],
        leave_out: Callable[[Scores], None] = lambda scores: None,
    ) -> bool:
        """Makes the file, unless one of the same identity is there; returns whether it was there.

        Args:
            identity: everything that the scores depend on; JSON-ready.
            facts: what else the manifest says, such as ids of rows and columns.
            leave_out: sets what is never to be scored to -inf. The file appears when that is done.

        Raises:
            DataError: there is no room for it.
        """
        manifest = json.loads(json.dumps({"identity": dict(identity), **facts}))
        if self.identity() == manifest["identity"] and self._shape() == shape:
            if self._known() != manifest:
                write_json(self.manifest, manifest)
            return True
        draft = self.path.with_name(f".{self.path.name}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.manifest.unlink(missing_ok=True)  # until the new matrix is there, nothing vouches for the old one
            scores = _empty(draft, shape)
            leave_out(scores)
            scores.flush()
            del scores
            os.replace(draft, self.path)
            write_json(self.manifest, manifest)
        except OSError as error:
            size = shape[0] * shape[1] * 4 / 2**20
            raise DataError(f"{self.path}: cannot write a score matrix of {size:,.0f} MiB: {error.strerror}") from error
        finally:
            with suppress(OSError):
                draft.unlink()
        return False

    def open(self) -> Scores:
        """The scores, to be read and written."""
        scores: Scores = np.load(self.path, mmap_mode="r+", allow_pickle=False)
        return scores

    def delete(self) -> None:
        """Removes the file and its manifest."""
        self.manifest.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def identity(self) -> Any:
        """What the manifest vouches for; None without one."""
        return self._known().get("identity")

    def is_final(self) -> bool:
        """Whether it is that of an evaluation whose scores somebody may come back for."""
        return bool(self._known().get("final"))

    def _known(self) -> dict[str, Any]:
        return read_object_or_empty(self.manifest)

    def _shape(self) -> tuple[int, ...] | None:
        try:
            shape: tuple[int, ...] = np.load(self.path, mmap_mode="r", allow_pickle=False).shape
        except (OSError, ValueError, EOFError):
            return None
        return shape


def _empty(path: Path, shape: tuple[int, int]) -> Any:
    """A memory-mapped file of NaN whose place on the disk is taken: a full disk would kill who writes to a mapping."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        _take_place(file, file.tell() + shape[0] * shape[1] * 4)
    scores = np.load(path, mmap_mode="r+", allow_pickle=False)
    for start in range(0, shape[0], _ROWS_AT_ONCE):
        scores[start : start + _ROWS_AT_ONCE] = np.nan
    return scores


def _take_place(file: IO[bytes], size: int) -> None:
    """Makes a file ``size`` bytes long, all of them on the disk."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, max(1, size))
        return
    block = bytes(1 << 24)  # macOS has no such call, and a file that is only made longer takes no place
    while (left := size - file.tell()) > 0:
        file.write(block[:left])


def unfinished(scores: Scores, tiles: TilePlan) -> Rows:
    """Numbers of the tiles in which something is not scored yet."""
    return np.array([number for number in range(len(tiles)) if _has_gaps(scores, tiles[number])], np.int64)


def _has_gaps(scores: Scores, tile: Tile) -> bool:
    return bool(np.isnan(scores[tile.images, tile.texts]).any())


@dataclass(frozen=True)
class FirstStage:
    """A finished score matrix of another model, and where in it the images and texts of a pool are.

    Attributes:
        identity: of that matrix.
    """

    scores: Scores
    rows: Rows
    columns: Rows
    identity: Any = None


def leave_out_all_but(scores: Scores, first_stage: FirstStage, candidates: int) -> None:
    """Sets to -inf what is not among the ``candidates`` best of its row or of its column in the first stage.

    Both matrices may be memory-mapped; they are read in blocks.
    """
    num_images, num_texts = scores.shape
    step = max(1, _BLOCK_ELEMENTS // num_images)
    column_limit = np.concatenate(
        [
            _limit(first_stage.scores[:, first_stage.columns[start : start + step]][first_stage.rows], candidates, 0)
            for start in range(0, num_texts, step)
        ]
    )
    for row in range(num_images):
        line = first_stage.scores[first_stage.rows[row]][first_stage.columns]
        low = (line < _limit(line, candidates, 0)) & (line < column_limit)
        scores[row, low | np.isneginf(line)] = -np.inf


def _limit(values: Scores, count: int, axis: int) -> Any:
    """The smallest of the ``count`` largest values along an axis."""
    place = max(0, values.shape[axis] - count)
    return np.take(np.partition(values, place, axis=axis), place, axis=axis)


def read_first_stage(path: Path, image_ids: Sequence[str], text_ids: Sequence[str]) -> FirstStage:
    """Opens the score matrix of another model, which chooses the candidates for these images and texts.

    Raises:
        DataError: it is no finished score matrix, or has no scores of some of these images and texts.
    """
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        scores: Scores = np.load(path, mmap_mode="r", allow_pickle=False)
        rows = {name: row for row, name in enumerate(manifest["image_ids"])}
        columns = {name: column for column, name in enumerate(manifest["text_ids"])}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path}: not a score matrix with its .json beside it ({error})") from error
    missing = [name for name in image_ids if name not in rows] + [name for name in text_ids if name not in columns]
    if missing:
        raise DataError(
            f"{path}: has no scores of {len(missing):,} images and texts of this split, such as '{missing[0]}'"
        )
    if any(np.isnan(scores[start : start + _ROWS_AT_ONCE]).any() for start in range(0, len(scores), _ROWS_AT_ONCE)):
        raise DataError(f"{path}: is not finished; run its evaluation again, it continues")
    return FirstStage(
        scores,
        np.array([rows[name] for name in image_ids]),
        np.array([columns[name] for name in text_ids]),
        manifest.get("identity"),
    )
