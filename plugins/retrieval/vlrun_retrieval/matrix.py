"""A score matrix on disk, images x texts, that is filled tile by tile and can be continued after a kill.

It is a NumPy file of float32, memory-mapped by every process of a machine. NaN marks what is not scored yet, -inf what
is left out. A manifest beside it says of which model and pool the scores are; another one starts anew. A file of
checksums, one for each tile, tells scores that changed after they were written.
"""

from __future__ import annotations

import json
import os
import zlib
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
from vlrun.files import atomic_write, lock_file, read_object, read_object_or_empty, room_for, write_json
from vlrun.foreign.json import parse_json

Scores: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.int64]
Checksums: TypeAlias = NDArray[np.uint32]

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
        self.shape = num_images, len(lengths)
        self._facts = {
            "lengths": lengths.tolist(),
            "texts": None if texts is None else texts.tolist(),
            "pairs_per_batch": pairs_per_batch,
            "images_per_block": images_per_block,
            "texts_per_group": texts_per_group,
        }
        self.groups = list(_groups(columns, lengths[columns], min(texts_per_group, pairs_per_batch)))
        self.heights = [max(1, pairs_per_batch // len(group)) for group in self.groups]
        starts = range(0, num_images, images_per_block)
        self.blocks = [range(start, min(start + images_per_block, num_images)) for start in starts]
        counts = [-(-len(block) // height) for block in self.blocks for height in self.heights]
        self.ends = list(accumulate(counts))
        self.pairs = num_images * len(columns)

    def as_json(self) -> dict[str, Any]:
        """What ``from_json`` needs, besides the number of images."""
        return self._facts

    @classmethod
    def from_json(cls, num_images: int, facts: Mapping[str, Any]) -> TilePlan:
        """The plan that ``as_json`` describes; raises KeyError, TypeError or ValueError for anything else."""
        arrays = {key: None if facts[key] is None else np.array(facts[key], np.int64) for key in ("lengths", "texts")}
        return cls(num_images, **{**facts, **arrays})

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
        self._lock: int | None = None

    def acquire(self) -> None:
        """Keeps other evaluations out until ``release``; a process that dies lets go.

        Raises:
            DataError: another process is at work on it, or it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock_file(self.path.with_name(f".{self.path.name}.lock"))
        except BlockingIOError as error:
            raise DataError(f"{self.path}: another evaluation is filling it; wait until that has ended") from error
        except OSError as error:
            raise DataError(f"{self.path}: cannot write score matrices here: {error.strerror}") from error

    def release(self) -> None:
        """Lets other evaluations in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def prepare(
        self,
        tiles: TilePlan,
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
        shape = tiles.shape
        manifest = parse_json(json.dumps({"identity": dict(identity), "tiles": tiles.as_json(), **facts}))
        if self.identity() == manifest["identity"] and self._shape() == shape:
            if self._known() != manifest:
                write_json(self.manifest, manifest)
            if _read_checksums(self.path, len(tiles)) is None:
                _no_checksums(self.path, len(tiles))
            return True
        draft = self.path.with_name(f".{self.path.name}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.manifest.unlink(missing_ok=True)  # until the new matrix is there, nothing vouches for the old one
            with room_for(self.path, needed=shape[0] * shape[1] * 4):
                scores = _empty(draft, shape)
            leave_out(scores)
            scores.flush()
            del scores
            _no_checksums(self.path, len(tiles))
            os.replace(draft, self.path)
            write_json(self.manifest, manifest)
        except OSError as error:
            raise DataError(f"{self.path}: cannot write a score matrix: {error.strerror}") from error
        finally:
            with suppress(OSError):
                draft.unlink()
        return False

    def open(self) -> Scores:
        """The scores, to be read and written."""
        scores: Scores = np.load(self.path, mmap_mode="r+", allow_pickle=False)
        return scores

    def open_checksums(self) -> Checksums:
        """The checksum of each tile, to be read and written; 0 for one that is not scored yet."""
        checksums: Checksums = np.memmap(_checksum_file(self.path), "<u4", mode="r+")
        return checksums

    def delete(self) -> None:
        """Removes the file, its manifest and its checksums."""
        for path in (self.manifest, self.path, _checksum_file(self.path)):
            path.unlink(missing_ok=True)

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
            scores = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError):
            return None
        is_ours = scores.dtype == np.dtype("<f4") and scores.flags.c_contiguous and not self.path.is_symlink()
        return scores.shape if is_ours else None


def _checksum_file(path: Path) -> Path:
    return path.with_suffix(".crc")


def _read_checksums(path: Path, count: int) -> Checksums | None:
    """The checksums beside a matrix; None where there are none of so many tiles."""
    file = _checksum_file(path)
    if file.is_symlink() or not file.is_file() or file.stat().st_size != 4 * max(1, count):
        return None
    return np.fromfile(file, "<u4")


def _no_checksums(path: Path, count: int) -> None:
    with atomic_write(_checksum_file(path), "wb") as file:
        file.write(bytes(4 * max(1, count)))


def _empty(path: Path, shape: tuple[int, int]) -> Any:
    """A memory-mapped file of NaN whose place on the disk is taken: a full disk would kill who writes to a mapping."""
    path.unlink(missing_ok=True)
    with path.open("xb") as file:  # not through a link
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


def tile_checksum(scores: Scores, tile: Tile, number: int) -> int:
    """What tells whether the scores of a tile are those that were written, there and not elsewhere; 0 with gaps."""
    values = np.ascontiguousarray(scores[tile.images, tile.texts])
    return 0 if np.isnan(values).any() else zlib.crc32(values.data, number + 1) or 1


def unfinished(scores: Scores, checksums: Checksums, tiles: TilePlan) -> Rows:
    """Numbers of the tiles in which something is not scored yet, or changed after it was written."""
    numbers = (n for n in range(len(tiles)) if not checksums[n] or tile_checksum(scores, tiles[n], n) != checksums[n])
    return np.fromiter(numbers, np.int64)


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
        manifest = read_object(path.with_suffix(".json"))
        scores: Scores = np.load(path, mmap_mode="r", allow_pickle=False)
        rows = {name: row for row, name in enumerate(manifest["image_ids"])}
        columns = {name: column for column, name in enumerate(manifest["text_ids"])}
        tiles = TilePlan.from_json(len(rows), manifest["tiles"])
    except (OSError, ValueError, TypeError, KeyError, EOFError, SyntaxError, DataError) as error:
        raise DataError(f"{path}: not a score matrix with its .json beside it ({error})") from error
    missing = [name for name in image_ids if name not in rows] + [name for name in text_ids if name not in columns]
    if missing:
        raise DataError(
            f"{path}: has no scores of {len(missing):,} images and texts of this split, such as '{missing[0]}'"
        )
    checksums = _read_checksums(path, len(tiles))
    if checksums is None or scores.shape != tiles.shape:
        raise DataError(f"{path}: its checksums are missing or of another matrix; run its evaluation again")
    if len(left := unfinished(scores, checksums, tiles)):
        changed = np.count_nonzero(checksums[left])
        what = f"{changed:,} of its tiles changed after they were scored" if changed else "it is not finished"
        raise DataError(f"{path}: {what}; run its evaluation again, it continues")
    return FirstStage(
        scores,
        np.array([rows[name] for name in image_ids]),
        np.array([columns[name] for name in text_ids]),
        manifest.get("identity"),
    )
