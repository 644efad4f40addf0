"""ROSITA's folder: ``imgfeat.tsv`` with ``imgfeat.lineidx`` and ``img_feat_offset_map.json``, all three checked.

``lineidx`` holds the offset of every row. The original writer counts characters and calls them bytes, so both are
accepted. The map leads, despite its name, from file name to row number. Large sets come as ``imgfeat_split<i>.tsv``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vlrun.errors import DataError
from vlrun.features.formats.tsv import Columns, Row, TsvFiles
from vlrun.foreign.json import parse_json

COLUMNS: Columns = {
    "filename": "image_id",
    "features": "features",
    "image_h": "height",
    "image_w": "width",
    "num_boxes": "num_boxes",
    "boxes": "boxes",
    "objects_id": "class_ids",
    "objects_conf": "class_scores",
    "attrs_id": "attribute_ids",
    "attrs_conf": "attribute_scores",
}


class RositaTsv(TsvFiles):
    """The rows of one folder; a row whose offset or number is recorded wrongly is an error."""

    def __init__(self, path: Path) -> None:
        folder = path if path.is_dir() else path.parent
        whole = folder / "imgfeat.tsv"
        self._is_split = not whole.is_file()
        parts = _split_files(folder) if self._is_split else [whole]
        if not parts:
            raise DataError(f"{folder} holds neither imgfeat.tsv nor imgfeat_split0.tsv")
        super().__init__(parts, COLUMNS, f"{folder.name} ({len(parts)} tsv with offsets)")
        self._map_file = folder / "img_feat_offset_map.json"
        self._index_files = [part.with_suffix(".lineidx") for part in parts]
        self._side_files = [file for file in (*self._index_files, self._map_file) if file.is_file()]
        if not self._is_split and len(self._side_files) < 2:
            absent = {*self._index_files, self._map_file}.difference(self._side_files)
            raise DataError([f"{file} does not exist; it belongs to {whole}" for file in sorted(absent)])
        self._offsets = [_read_offsets(file) if file.is_file() else [] for file in self._index_files]
        self._rows_by_name = _read_map(self._map_file) if self._map_file.is_file() else {}
        if not self._is_split and len(self._rows_by_name) != len(self._offsets[0]):
            raise DataError(
                f"{self._map_file} names {len(self._rows_by_name):,} images, "
                f"{self._index_files[0]} has {len(self._offsets[0]):,} lines"
            )

    def files(self) -> Sequence[Path]:
        return [*self._files, *self._side_files]

    def num_records(self) -> int | None:
        return None if self._is_split else len(self._offsets[0])

    def row_problems(self, number: int, row: Row) -> list[str]:
        """What the side files say wrongly about a row."""
        problems = []
        offsets, index_name = self._offsets[number], self._index_files[number].name
        if offsets and row.line > len(offsets):
            problems.append(f"{index_name} has no line {row.line}")
        elif offsets and (offset := offsets[row.line - 1]) not in (row.start, row.first_character):
            problems.append(f"{index_name}:{row.line} says {offset}, the row starts at {row.start}")
        name = row.cells[0].decode(errors="replace")
        recorded = self._rows_by_name.get(name)
        if self._rows_by_name and recorded is None:
            problems.append(f"{self._map_file.name} does not name '{name}'")
        elif recorded not in (None, row.line - 1) and not self._is_split:
            problems.append(f"{self._map_file.name} says row {recorded} for '{name}', it is row {row.line - 1}")
        return problems

    def check_end(self, number: int, num_rows: int) -> None:
        expected = len(self._offsets[number])
        if expected and num_rows != expected:
            index_name = self._index_files[number].name
            raise DataError(f"{self._files[number]} has {num_rows:,} rows, {index_name} has {expected:,}")


def _split_files(folder: Path) -> list[Path]:
    numbered = [(re.fullmatch(r"imgfeat_split(\d+)", file.stem), file) for file in folder.glob("*.tsv")]
    return [file for _, file in sorted((int(match[1]), file) for match, file in numbered if match)]


def _read_offsets(file: Path) -> list[int]:
    offsets = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not re.fullmatch(rb"\s*\d{1,18}\s*", line):
            raise DataError(f"{file}:{number}: {line[:40].decode(errors='replace')!r} is not an offset")
        offsets.append(int(line))
    return offsets


def _read_map(file: Path) -> dict[str, int]:
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(row, int) for row in content.values()):
        raise DataError(f"{file} must map file names to row numbers")
    return content


def is_rosita_tsv(path: Path) -> bool:
    """Whether this is ROSITA's folder or a file of it."""
    if path.is_file() and not path.name.startswith("imgfeat"):
        return False
    folder = path if path.is_dir() else path.parent
    return any((folder / name).is_file() for name in ("imgfeat.tsv", "imgfeat_split0.tsv"))
