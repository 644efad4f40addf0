"""ROSITA's folder: ``imgfeat.tsv`` with ``imgfeat.lineidx`` and ``img_feat_offset_map.json``, all three checked.

``lineidx`` holds the offset of every row. The original writer counts characters and calls them bytes, so both are
accepted. The map leads, despite its name, from file name to row number. Large sets come as ``imgfeat_split<i>.tsv``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlrun.errors import DataError
from vlrun.features.formats.tsv import Columns, Row, TsvFiles

COLUMNS = Columns(
    names=(
        "filename",
        "features",
        "image_h",
        "image_w",
        "num_boxes",
        "boxes",
        "objects_id",
        "objects_conf",
        "attrs_id",
        "attrs_conf",
    ),
    image_id="filename",
    height="image_h",
    width="image_w",
    class_ids="objects_id",
    class_scores="objects_conf",
    attribute_ids="attrs_id",
    attribute_scores="attrs_conf",
)


class RositaTsv(TsvFiles):
    """The rows of one folder; a row whose offset or number is recorded wrongly is an error."""

    def __init__(self, path: Path) -> None:
        folder = path if path.is_dir() else path.parent
        whole = folder / "imgfeat.tsv"
        parts = [whole] if whole.is_file() else _splits(folder)
        super().__init__(parts, COLUMNS, f"{folder.name} ({len(parts)} tsv with offsets)")
        if not parts:
            raise DataError(f"{folder} holds neither imgfeat.tsv nor imgfeat_split0.tsv")
        self._is_split = parts != [whole]
        self._map_file = folder / "img_feat_offset_map.json"
        self._index_files = [part.with_suffix(".lineidx") for part in parts]
        if not self._is_split and (absent := [file for file in self._side_files() if not file.is_file()]):
            raise DataError([f"{file} does not exist; it belongs to {whole}" for file in absent])
        self._offsets = [_read_offsets(file) if file.is_file() else [] for file in self._index_files]
        self._rows_by_name = _read_map(self._map_file) if self._map_file.is_file() else {}
        if not self._is_split and len(self._rows_by_name) != len(self._offsets[0]):
            raise DataError(
                f"{self._map_file} names {len(self._rows_by_name):,} images, "
                f"{self._index_files[0]} has {len(self._offsets[0]):,} lines"
            )

    def _side_files(self) -> list[Path]:
        return [*self._index_files, self._map_file]

    def files(self) -> Sequence[Path]:
        return [*self.paths, *(file for file in self._side_files() if file.is_file())]

    def num_records(self) -> int | None:
        return len(self._offsets[0]) if not self._is_split else None

    def checked(self, number: int, row: Row, *state: Any) -> tuple[list[str], tuple[Any, ...]]:
        """What the side files say wrongly about a row; the state is where it starts, counted in characters."""
        characters: int = state[0] if state else 0
        return self._index_problems(number, row, characters), (characters + _num_characters(row),)

    def check_end(self, number: int, line: int) -> None:
        """Whether the file has as many rows as its index."""
        if self._offsets[number] and line != len(self._offsets[number]):
            raise DataError(
                f"{self.paths[number]} has {line:,} rows, {self._index_files[number].name} has "
                f"{len(self._offsets[number]):,}"
            )

    def _index_problems(self, number: int, row: Row, characters: int) -> list[str]:
        """What the side files say wrongly about a row; ``characters`` is its start, counted in characters."""
        problems = []
        offsets, index_name = self._offsets[number], self._index_files[number].name
        if offsets and row.line > len(offsets):
            problems.append(f"{index_name} has no line {row.line}")
        elif offsets and (offset := offsets[row.line - 1]) not in (row.start, characters):
            problems.append(f"{index_name}:{row.line} says {offset}, the row starts at {row.start}")
        if self._rows_by_name:
            problems += self._map_problems(row)
        return problems

    def _map_problems(self, row: Row) -> list[str]:
        name = row.cells[0].decode(errors="replace")
        recorded = self._rows_by_name.get(name)
        if recorded is None:
            return [f"{self._map_file.name} does not name '{name}'"]
        if recorded != row.line - 1 and not self._is_split:
            return [f"{self._map_file.name} says row {recorded} for '{name}', it is row {row.line - 1}"]
        return []


def _num_characters(row: Row) -> int:
    """Length of a row in characters; only the file name can hold others than ASCII."""
    continuation_bytes = sum(byte & 0xC0 == 0x80 for byte in row.cells[0])
    return row.end - row.start - continuation_bytes


def _splits(folder: Path) -> list[Path]:
    numbered = [
        (int(match[1]), file)
        for file in folder.glob("*.tsv")
        if (match := re.fullmatch(r"imgfeat_split(\d+)", file.stem))
    ]
    return [file for _, file in sorted(numbered)]


def _read_offsets(file: Path) -> list[int]:
    offsets = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if not line.strip().isdigit():
            raise DataError(f"{file}:{number}: {line[:40]!r} is not an offset")
        offsets.append(int(line))
    return offsets


def _read_map(file: Path) -> dict[str, int]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(row, int) for row in content.values()):
        raise DataError(f"{file} must map file names to row numbers")
    return content


def is_rosita_tsv(path: Path) -> bool:
    """Whether this is ROSITA's folder or a file of it."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and not path.name.startswith("imgfeat"):
        return False
    return (folder / "imgfeat.tsv").is_file() or (folder / "imgfeat_split0.tsv").is_file()
