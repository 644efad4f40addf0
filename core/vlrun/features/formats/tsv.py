"""Tab-separated rows with base64 arrays and no header: LXMERT's ten columns, and the six of the original extractor.

LXMERT writes height before width, the original writes width before height.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun.errors import DataError
from vlrun.features.formats import FeatureSource, SourceRecord
from vlrun.interfaces.examples import RegionFeatures, canonical_image_id

LONGEST_ROW = 256 << 20  # bytes; a real row of 36 regions has 0.4 MB, a file without line ends must not fill the memory


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a layout, in order; ``extra`` more may follow and are not read."""

    names: tuple[str, ...]
    image_id: str
    height: str
    width: str
    boxes: str = "boxes"
    features: str = "features"
    num_boxes: str = "num_boxes"
    class_ids: str | None = None
    class_scores: str | None = None
    attribute_ids: str | None = None
    attribute_scores: str | None = None
    extra: int = 0


LXMERT_COLUMNS = Columns(
    names=(
        "img_id",
        "img_h",
        "img_w",
        "objects_id",
        "objects_conf",
        "attrs_id",
        "attrs_conf",
        "num_boxes",
        "boxes",
        "features",
    ),
    image_id="img_id",
    height="img_h",
    width="img_w",
    class_ids="objects_id",
    class_scores="objects_conf",
    attribute_ids="attrs_id",
    attribute_scores="attrs_conf",
    extra=3,  # VOLTA appends cls_prob, attrs and classes
)
BUTD_COLUMNS = Columns(
    names=("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"),
    image_id="image_id",
    height="image_h",
    width="image_w",
)


class TsvFiles(FeatureSource):
    """The rows of several files, one after the other.

    Attributes:
        paths: the files. Layouts with more than these beside them override ``checked`` and ``check_end``.
    """

    def __init__(self, paths: Sequence[Path], columns: Columns, described: str) -> None:
        self.paths = paths
        self._columns = columns
        self._described = described

    def files(self) -> Sequence[Path]:
        return self.paths

    def describe(self) -> str:
        return self._described

    def checked(self, number: int, row: Row, *state: Any) -> tuple[list[str], tuple[Any, ...]]:
        """What is wrong with a row of file ``number`` beside its content, and what the next row's check has to know.

        ``state`` is what the row before has left, nothing at the start of a file; JSON-ready.
        """
        return [], ()

    def check_end(self, number: int, line: int) -> None:
        """Called after the last row of a file, with its line number.

        Raises:
            DataError: there should be more rows, or fewer.
        """

    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        """The rows after ``position``: the file, the line and the byte where it ends, and the check's state."""
        first, line, offset, *state = position or (0, 0, 0)
        sizes = [path.stat().st_size for path in self.paths]
        for number in range(first, len(self.paths)):
            path = self.paths[number]
            for row in rows_of(path, line, offset):
                problems, left = self.checked(number, row, *state)
                line, state = row.line, [*left]
                yield SourceRecord(
                    location=f"{path}:{row.line}",
                    image_id=id_of(row.cells, self._columns),
                    load=partial(_load, row.cells, self._columns, problems),
                    next=(number, row.line, row.end, *state),
                    share=(sum(sizes[:number]) + row.end) / sum(sizes),
                )
            self.check_end(number, line)
            line, offset, state = 0, 0, []


def _load(cells: Sequence[bytes], columns: Columns, problems: Sequence[str]) -> RegionFeatures:
    if problems:
        raise DataError(problems)
    return regions_of(cells, columns)


def _file_or_folder(path: Path, columns: Columns) -> TsvFiles:
    """One file, or all ``.tsv`` files of a folder by name."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    paths = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    if not paths:
        raise DataError(f"{path} holds no .tsv files")
    return TsvFiles(paths, columns, path.name + (f" ({len(paths)} files)" if path.is_dir() else ""))


@dataclass(frozen=True)
class Row:
    """A row with its line number, from 1, and the byte offsets where it starts and ends."""

    line: int
    start: int
    end: int
    cells: list[bytes]


def rows_of(file: Path, line: int = 0, offset: int = 0) -> Iterator[Row]:
    """The rows after line ``line``, which ends at byte ``offset``."""
    with file.open("rb") as opened:
        opened.seek(offset)
        while content := opened.readline(LONGEST_ROW):
            if len(content) == LONGEST_ROW:
                raise DataError(f"{file}:{line + 1}: no line end within {LONGEST_ROW:,} bytes")
            line += 1
            start, offset = offset, offset + len(content)
            yield Row(line, start, offset, content.rstrip(b"\r\n").split(b"\t"))


def id_of(cells: Sequence[bytes], columns: Columns) -> str:
    """The canonical image id of a row; empty where there is none."""
    position = columns.names.index(columns.image_id)
    try:
        return canonical_image_id(cells[position].decode().strip())
    except (IndexError, UnicodeDecodeError):
        return ""


def regions_of(cells: Sequence[bytes], columns: Columns) -> RegionFeatures:
    """Decodes a row; raises DataError that names the columns that are wrong."""
    expected = len(columns.names)
    if len(cells) not in (expected, expected + columns.extra):
        raise DataError(f"{len(cells)} columns, expected {expected} ({', '.join(columns.names)})")
    row = dict(zip(columns.names, cells, strict=False))
    image_id = id_of(cells, columns)
    if not image_id:
        raise DataError(f"{columns.image_id}: no image id in {cells[0][:40]!r}")
    count = _whole(row, columns.num_boxes)
    if count < 1:
        raise DataError(f"{columns.num_boxes}: {count} regions")
    optional: dict[str, Any] = {}
    for name, decode in _DECODERS.items():
        if column := getattr(columns, name):
            optional[name] = decode(row, column, count)
    return RegionFeatures(
        image_id=image_id,
        features=_features(row, columns.features, count),
        boxes=_floats(row, columns.boxes, 4 * count).reshape(count, 4),
        height=_whole(row, columns.height),
        width=_whole(row, columns.width),
        **optional,
    )


def _whole(row: Mapping[str, bytes], column: str) -> int:
    try:
        return int(row[column])
    except ValueError:
        raise DataError(f"{column}: {row[column][:40]!r} is not a whole number") from None


def _decoded(row: Mapping[str, bytes], column: str) -> bytes:
    try:
        return binascii.a2b_base64(row[column])
    except binascii.Error as error:
        raise DataError(f"{column}: damaged base64 ({error})") from None


def _floats(row: Mapping[str, bytes], column: str, count: int) -> NDArray[np.float32]:
    content = _decoded(row, column)
    if len(content) != 4 * count:  # base64 skips characters that are not its own, so this also finds those
        raise DataError(f"{column}: {len(content):,} bytes, {4 * count:,} were expected for num_boxes")
    return np.frombuffer(content, "<f4")


def _features(row: Mapping[str, bytes], column: str, count: int) -> NDArray[np.float32]:
    content = _decoded(row, column)
    if not content or len(content) % (4 * count):
        raise DataError(f"{column}: {len(content):,} bytes are no whole number of float32 for each of {count} regions")
    return np.frombuffer(content, "<f4").reshape(count, -1)


def _ids(row: Mapping[str, bytes], column: str, count: int) -> NDArray[np.int32]:
    """Class ids: int64 in the original files, float32 or int32 where someone rewrote them."""
    content = _decoded(row, column)
    if len(content) == 8 * count:
        return np.frombuffer(content, "<i8").astype(np.int32)
    if len(content) != 4 * count:
        raise DataError(f"{column}: {len(content):,} bytes, {8 * count:,} or {4 * count:,} were expected for num_boxes")
    floats = np.frombuffer(content, "<f4")
    if np.isfinite(floats).all() and (floats == np.rint(floats)).all():  # small integers, read as floats, are not whole
        return floats.astype(np.int32)
    return np.frombuffer(content, "<i4").astype(np.int32)


_DECODERS: dict[str, Callable[[Mapping[str, bytes], str, int], NDArray[Any]]] = {
    "class_ids": _ids,
    "class_scores": _floats,
    "attribute_ids": _ids,
    "attribute_scores": _floats,
}


def open_lxmert_tsv(path: Path) -> TsvFiles:
    """A file of LXMERT's ten columns, or a folder of them."""
    return _file_or_folder(path, LXMERT_COLUMNS)


def open_butd_tsv(path: Path) -> TsvFiles:
    """A file of the original extractor's six columns, or a folder of them."""
    return _file_or_folder(path, BUTD_COLUMNS)


def is_lxmert_tsv(path: Path) -> bool:
    """Whether the first line has LXMERT's columns, or those of its object and attribute scores too."""
    columns = _first_columns(path)
    return len(columns) in (10, 13) and columns[1].isdigit() and columns[2].isdigit()


def is_butd_tsv(path: Path) -> bool:
    """Whether the first line has the columns of the original extractor."""
    columns = _first_columns(path)
    return len(columns) == 6 and columns[1].isdigit() and columns[2].isdigit()


def _first_columns(path: Path) -> list[bytes]:
    """Columns of the first line of a TSV file, or of the first one in a folder."""
    files = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    if not files or files[0].suffix != ".tsv":
        return []
    with files[0].open("rb") as file:
        return file.readline(64 << 20).rstrip(b"\r\n").split(b"\t")
