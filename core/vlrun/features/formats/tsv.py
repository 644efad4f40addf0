"""Tab-separated rows with base64 arrays and no header: LXMERT's ten columns, and the six of the original extractor.

LXMERT writes height before width, the original writes width before height.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun.errors import DataError
from vlrun.features.formats import FeatureSource, SourceRecord, is_junk
from vlrun.interfaces.examples import RegionFeatures, canonical_image_id

_TSV_NAME = re.compile(r"(.*\.tsv)(?:\.(\d+))?")

LONGEST_ROW = 256 << 20  # bytes; a real row of 36 regions has 0.4 MB, a file without line ends must not fill the memory

Columns = Mapping[str, str]
"""The columns of a layout in order, from their name there to the name in ``RegionFeatures``.

The image id comes first. Columns without a name in ``RegionFeatures`` come last, may be absent, and are not read.
"""

LXMERT_COLUMNS: Columns = {
    "img_id": "image_id",
    "img_h": "height",
    "img_w": "width",
    "objects_id": "class_ids",
    "objects_conf": "class_scores",
    "attrs_id": "attribute_ids",
    "attrs_conf": "attribute_scores",
    "num_boxes": "num_boxes",
    "boxes": "boxes",
    "features": "features",
    "cls_prob": "",  # this and the next two are VOLTA's
    "attrs": "",
    "classes": "",
}
BUTD_COLUMNS: Columns = {
    "image_id": "image_id",
    "image_w": "width",
    "image_h": "height",
    "num_boxes": "num_boxes",
    "boxes": "boxes",
    "features": "features",
}


@dataclass(frozen=True)
class Row:
    """A row with its line number, from 1, and where it starts and ends, in bytes and in characters."""

    line: int
    start: int
    end: int
    first_character: int
    end_character: int
    cells: list[bytes]


class TsvFiles(FeatureSource):
    """The rows of some files, one file after the other."""

    def __init__(self, files: Sequence[Path], columns: Columns, description: str, left_out: Sequence[str] = ()) -> None:
        self._files = files
        self._left_out = left_out
        self._columns = columns
        self._description = description

    def files(self) -> Sequence[Path]:
        return self._files

    def left_out(self) -> Sequence[str]:
        return self._left_out

    def describe(self) -> str:
        return self._description

    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        first, line, offset, character = (*position, 0, 0, 0, 0)[:4]
        sizes = [file.stat().st_size for file in self._files]
        for number in range(first, len(self._files)):
            file = self._files[number]
            for row in read_rows(file, line, offset, character):
                line = row.line
                if line == 1 and _is_heading(row.cells, self._columns):
                    continue
                yield SourceRecord(
                    location=f"{file}:{line}",
                    image_id=_image_id(row.cells),
                    load=partial(self._load, number, row),
                    next=(number, line, row.end, row.end_character),
                    share=(sum(sizes[:number]) + row.end) / sum(sizes),
                )
            self.check_end(number, line)
            line = offset = character = 0

    def _load(self, number: int, row: Row) -> RegionFeatures:
        if problems := self.row_problems(number, row):
            raise DataError(problems)
        return decode_row(row.cells, self._columns)

    def row_problems(self, number: int, row: Row) -> list[str]:
        """What is wrong with a row of file ``number`` beside its content."""
        return []

    def check_end(self, number: int, num_rows: int) -> None:
        """Raises DataError where file ``number`` should have another number of rows."""


def read_rows(file: Path, line: int = 0, offset: int = 0, character: int = 0) -> Iterator[Row]:
    """The rows after line ``line``, which ends at byte ``offset`` and at ``character``."""
    with file.open("rb") as opened:
        opened.seek(offset)
        while content := opened.readline(LONGEST_ROW):
            if len(content) == LONGEST_ROW:
                raise DataError(f"{file}:{line + 1}: no line end within {LONGEST_ROW:,} bytes")
            line += 1
            cells = content.rstrip(b"\r\n").split(b"\t")
            end, end_character = offset + len(content), character + len(content)
            if not cells[0].isascii():  # no other cell can hold more than ASCII
                end_character -= sum(byte & 0xC0 == 0x80 for byte in cells[0])
            yield Row(line, offset, end, character, end_character, cells)
            offset, character = end, end_character


def decode_row(cells: Sequence[bytes], columns: Columns) -> RegionFeatures:
    """The image of a row; raises DataError that names the columns that are wrong."""
    known = [name for name, meaning in columns.items() if meaning]
    if len(cells) not in (len(known), len(columns)):
        raise DataError(f"{len(cells)} columns, expected {len(known)} ({', '.join(known)})")
    image_id = _image_id(cells)
    if not image_id:
        raise DataError(f"{known[0]}: no image id in {cells[0][:40]!r}")
    row = {columns[name]: Cell(name, cell) for name, cell in zip(known, cells, strict=False)}
    count = row["num_boxes"].whole_number()
    if count < 1:
        raise DataError(f"{row['num_boxes'].column}: {count} regions")
    optional = {name: decode(row[name], count) for name, decode in _OPTIONAL.items() if name in row}
    return RegionFeatures(
        image_id=image_id,
        features=row["features"].matrix(count),
        boxes=row["boxes"].floats(4 * count).reshape(count, 4),
        height=row["height"].whole_number(),
        width=row["width"].whole_number(),
        **optional,
    )


def _image_id(cells: Sequence[bytes]) -> str:
    """The canonical image id of a row; empty where there is none."""
    try:
        return canonical_image_id(cells[0].decode().strip())
    except UnicodeDecodeError:
        return ""


@dataclass(frozen=True)
class Cell:
    """One cell and the name of its column; whatever cannot be decoded is a DataError."""

    column: str
    text: bytes

    def whole_number(self) -> int:
        """The text as a whole number."""
        try:
            return int(self.text)
        except ValueError:
            raise DataError(f"{self.column}: {self.text[:40]!r} is not a whole number") from None

    def floats(self, count: int) -> NDArray[np.float32]:
        """(count,) decoded from base64."""
        return np.frombuffer(self._bytes(4 * count), "<f4")

    def matrix(self, count: int) -> NDArray[np.float32]:
        """(count, width) decoded from base64, of whatever width the bytes give."""
        content = self._decoded()
        if not content or len(content) % (4 * count):
            size = f"{len(content):,} bytes"
            raise DataError(f"{self.column}: {size} are no whole number of float32 for each of {count} regions")
        return np.frombuffer(content, "<f4").reshape(count, -1)

    def ids(self, count: int) -> NDArray[np.int32]:
        """Class ids: int64 in the original files, float32 or int32 where someone rewrote them."""
        content = self._bytes(8 * count, 4 * count)
        if len(content) == 8 * count:
            return np.frombuffer(content, "<i8").astype(np.int32)
        floats = np.frombuffer(content, "<f4")
        if np.isfinite(floats).all() and (floats == np.rint(floats)).all():  # small integers as floats are not whole
            return floats.astype(np.int32)
        return np.frombuffer(content, "<i4").astype(np.int32)

    def _bytes(self, *sizes: int) -> bytes:
        content = self._decoded()
        if len(content) not in sizes:  # base64 skips characters that are not its own, so this also finds those
            expected = " or ".join(f"{size:,}" for size in sizes)
            raise DataError(f"{self.column}: {len(content):,} bytes, {expected} were expected for num_boxes")
        return content

    def _decoded(self) -> bytes:
        try:
            return binascii.a2b_base64(self.text)
        except binascii.Error as error:
            raise DataError(f"{self.column}: damaged base64 ({error})") from None


_OPTIONAL: dict[str, Callable[[Cell, int], NDArray[Any]]] = {
    "class_ids": Cell.ids,
    "class_scores": Cell.floats,
    "attribute_ids": Cell.ids,
    "attribute_scores": Cell.floats,
}


def open_lxmert_tsv(path: Path) -> TsvFiles:
    """A file of LXMERT's ten columns, or all ``.tsv`` files of a folder by name."""
    return _open_tsv(path, LXMERT_COLUMNS)


def open_butd_tsv(path: Path) -> TsvFiles:
    """A file of the original extractor's six columns, or all ``.tsv`` files of a folder by name."""
    return _open_tsv(path, BUTD_COLUMNS)


def _open_tsv(path: Path, columns: Columns) -> TsvFiles:
    if path.is_file():
        return TsvFiles([path], columns, path.name)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    files = _tsv_files(path)
    if not files:
        raise DataError(f"{path} holds no .tsv files")
    others = {entry.name for entry in path.iterdir() if entry.is_file() and not is_junk(entry.name)}
    left_out = sorted(others.difference(file.name for file in files))
    return TsvFiles(files, columns, f"{path.name} ({len(files)} files)", left_out)


def _tsv_files(folder: Path) -> list[Path]:
    """Files of a folder by name; those that end with ``.tsv.0``, ``.tsv.1`` and so on are parts of one."""
    numbered = [(_TSV_NAME.fullmatch(file.name), file) for file in folder.iterdir() if not is_junk(file.name)]
    return [file for *_, file in sorted((match[1], int(match[2] or 0), file) for match, file in numbered if match)]


def _is_heading(cells: Sequence[bytes], columns: Columns) -> bool:
    return cells[0].decode(errors="replace").strip() in ("img_id", "image_id", *list(columns)[:1])


def is_lxmert_tsv(path: Path) -> bool:
    """Whether the first line has LXMERT's columns, with or without VOLTA's."""
    return _begins_like(path, 10, 13)


def is_butd_tsv(path: Path) -> bool:
    """Whether the first line has the columns of the original extractor."""
    return _begins_like(path, 6)


def _begins_like(path: Path, *num_columns: int) -> bool:
    """Whether a TSV file, or the first one in a folder, begins with an id, two whole numbers and as many columns."""
    files = _tsv_files(path) if path.is_dir() else [path]
    if not files or not _TSV_NAME.fullmatch(files[0].name):
        return False
    with files[0].open("rb") as file:
        columns = file.readline(64 << 20).rstrip(b"\r\n").split(b"\t")
        if _is_heading(columns, {}):
            columns = file.readline(64 << 20).rstrip(b"\r\n").split(b"\t")
    return len(columns) in num_columns and columns[1].isdigit() and columns[2].isdigit()
