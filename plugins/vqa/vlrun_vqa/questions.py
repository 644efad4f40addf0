"""The questions of a split while they are built: in a file, for as objects those of VQA v2 take gigabytes."""

from __future__ import annotations

import os
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, ValuesView
from pathlib import Path
from typing import IO

from vlrun_vqa.records import ID_PATTERN, VqaQuestion


class Questions(Mapping[str, VqaQuestion]):
    """Records by id, in order; a question costs 16 bytes of memory, and some more while questions are looked up."""

    def __init__(self, folder: Path) -> None:
        """Makes an empty one; its file, which has no name, is in ``folder`` or the nearest one above that is there."""
        there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=there)  # noqa: SIM115 - it goes with the last reference
        self._ids, self._places = array("q"), array("q")
        self._rows: dict[int, int] | None = None  # id -> row, as long as it is needed

    def add(self, record: VqaQuestion) -> None:
        """Adds a record at the end; an earlier one of the same id is replaced."""
        rows = self._looked_up()
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(record.model_dump_json(exclude_none=True).encode() + b"\n")
        number = int(record.id)
        if (row := rows.setdefault(number, len(self._ids))) < len(self._ids):
            self._places[row] = place
        else:
            self._ids.append(number)
            self._places.append(place)

    def rest(self) -> None:
        """Frees what looking up takes; it comes back when it is needed."""
        self._rows = None

    def only(self, names: Iterable[str]) -> Questions:
        """The questions of these ids that are here, each once, in the order of ``names``; they share the file."""
        rows = self._looked_up()
        chosen = [row for name in dict.fromkeys(names) if (row := rows.get(_number(name))) is not None]
        part = object.__new__(Questions)
        part._file, part._rows = self._file, None
        part._ids = array("q", (self._ids[row] for row in chosen))
        part._places = array("q", (self._places[row] for row in chosen))
        return part

    def __getitem__(self, name: str) -> VqaQuestion:
        return self._read(self._places[self._looked_up()[_number(name)]])

    def __contains__(self, name: object) -> bool:
        return _number(name) in self._looked_up()

    def __iter__(self) -> Iterator[str]:
        return map(str, self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def values(self) -> ValuesView[VqaQuestion]:
        """The records, read as they are asked for."""
        return _Records(self)

    def _looked_up(self) -> dict[int, int]:
        if self._rows is None:
            self._rows = {number: row for row, number in enumerate(self._ids)}
        return self._rows

    def _read(self, place: int) -> VqaQuestion:
        self._file.seek(place)
        return VqaQuestion.model_validate_json(self._file.readline())


class _Records(ValuesView[VqaQuestion]):
    """Reads without looking anything up."""

    def __init__(self, questions: Questions) -> None:
        super().__init__(questions)
        self._questions = questions

    def __iter__(self) -> Iterator[VqaQuestion]:
        return map(self._questions._read, self._questions._places)


def _number(name: object) -> int:
    """The number that an id is; -1, which no id is, where it is spelled otherwise."""
    return int(name) if isinstance(name, str) and re.fullmatch(ID_PATTERN, name) else -1
