"""Annotation files: JSON lines, one file per split, built once from the official files and then only read.

Some official files are pickles; they are read here too, safely.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from abc import abstractmethod
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from vlrun.config.base import DatasetConfig
from vlrun.config.problems import short
from vlrun.data.build_progress import counted
from vlrun.errors import DataError, first_few
from vlrun.files import atomic_write
from vlrun.foreign.json import has_large_number, parse_json
from vlrun.foreign.pickles import RefusedNameError, read_plain
from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.examples import Example, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Record = TypeVar("Record", bound=BaseModel)

_HASH_LENGTH = 12
_IMAGE = re.compile(rb'"image(?:": ?"([^"\\]+)")?')
"""Every ``"image`` in a file; the name too where it is a plain value, as anything else needs a reader of JSON."""


class AnnotationFile:
    """The records of one JSON-lines file, addressed by position.

    The file is mapped, not loaded: loader workers and ranks share its pages, and a line costs 8 bytes besides. (A list
    of 400,000 dicts takes 293 MiB, and again in every worker, as reference counts copy its pages.) Picklable; each
    process maps the file when it first reads.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens ``path`` and finds its lines.

        Raises:
            DataError: the file is missing or empty.
        """
        self.path = Path(path)
        self._content: mmap.mmap | None = None
        self._sha256: str | None = None
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror or error}") from error
        self._identity = (status.st_size, status.st_mtime_ns)
        if status.st_size == 0:
            raise DataError(f"{self.path}: the file is empty; get it again, or build it again with `runner data build`")
        self._offsets = _line_offsets(self._mapped())

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The record at ``index``; a DataError names file and line if it is damaged."""
        return _parsed(self._line(index), self.place(index))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def image_ids(self) -> Iterator[str]:
        """What the fields ``image`` and ``images`` of all records hold; a DataError names a line that has neither."""
        found = self._plain_image_ids()
        if found is not None:
            yield from found
            return
        for index, record in enumerate(self):
            names = record.get("images", [record.get("image")])
            if names == [None]:
                raise DataError(f"{self.place(index)}: image: field required")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise DataError(f"{self.place(index)}: image: expected the name of an image, or a list of such")
            yield from names

    def _plain_image_ids(self) -> list[str] | None:
        """The images where each line names exactly one, ten times as fast as by reading all records; else None."""
        import numpy as np

        found = [(match.start(), match[1]) for match in _IMAGE.finditer(self._mapped())]
        if len(found) != len(self) or not all(image for _, image in found):
            return None
        lines = np.searchsorted(self._offsets, [place for place, _ in found], side="right")
        if not np.array_equal(lines, np.arange(1, len(self) + 1)):
            return None
        try:
            return [image.decode() for _, image in found]
        except UnicodeDecodeError:
            return None  # the reader of JSON says where

    def place(self, index: int) -> str:
        """``file:line`` of the record at ``index``, for messages."""
        return f"{self.path}:{index % len(self) + 1}"

    def read(self, index: int, model: type[Record]) -> Record:
        """The record at ``index`` as ``model``; a DataError names file, line and field if it does not fit."""
        line = self._line(index)
        if has_large_number(line):
            _parsed(line, self.place(index))  # raises if it is too large
        try:
            return model.model_validate_json(line)  # 14 us; through a dict it takes 23
        except ValidationError as error:
            _parsed(line, self.place(index))  # raises if the line is no JSON at all
            raise DataError([f"{self.place(index)}: {problem}" for problem in field_problems(error)]) from error

    @property
    def sha256(self) -> str:
        """Hash of the content, computed on first use."""
        if self._sha256 is None:
            self._sha256 = hashlib.sha256(self._mapped()).hexdigest()
        return self._sha256

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_content": None}

    def _line(self, index: int) -> bytes:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} records, there is no record {index}")
        start, end = self._offsets[index % len(self)], self._offsets[index % len(self) + 1]
        return self._mapped()[start:end]

    def _mapped(self) -> mmap.mmap:
        if self._content is None:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != self._identity:
                    raise DataError(f"{self.path} was changed while it was in use; start again")
                self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._content


class AnnotatedDataset(Dataset[Target], Generic[Target, Record]):
    """A split in one JSON-lines file, where every record is an example.

    Attributes:
        record: model of a line; its field ``image`` or ``images`` holds canonical ids.
    """

    record: type[Record]

    def __init__(self, config: DatasetConfig, split: str) -> None:
        """Opens the split.

        Raises:
            DataError: its file is missing or empty.
        """
        self.split = split
        self.file = AnnotationFile(config.split_file(split))
        self.protocol = {
            "dataset": config.name,
            "annotations": self.file.path.name,
            "annotations_sha256": self.file.sha256[:_HASH_LENGTH],
        }

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: int) -> Example[Target]:
        return self.example_of(self.file.read(index, self.record))

    @abstractmethod
    def example_of(self, record: Record) -> Example[Target]:
        """The example made from a record."""

    def image_ids(self) -> Iterator[str]:
        """All image ids, without validating the records: a million take seconds instead of half a minute."""
        return self.file.image_ids()


def write_annotations(
    path: Path, records: Iterable[BaseModel | Mapping[str, Any]], model: type[BaseModel], total: int | None = None
) -> int:
    """Writes one line per record, each checked with ``model``; returns how many.

    The file appears only when it is complete; fields that are None are left out.

    Args:
        total: how many records there will be, for the progress, where ``records`` has no length.

    Raises:
        DataError: records do not fit ``model``, or ids repeat; then no file is written.
    """
    problems: list[str] = []
    seen: dict[Any, int] = {}
    count = 0
    with atomic_write(path) as file:
        total = len(records) if total is None and isinstance(records, Sized) else total
        for count, record in enumerate(counted(records, path, total), start=1):
            try:
                checked = model.model_validate(record)
            except ValidationError as error:
                problems += [f"{path}:{count}: {problem}" for problem in field_problems(error)]
                continue
            problems += _repeated_id(checked, seen, count, f"{path}:{count}")
            line = json.dumps(checked.model_dump(mode="json", exclude_none=True), ensure_ascii=False)
            file.write(f"{line}\n")
        if problems:
            raise DataError(first_few(problems))
        if count == 0:
            raise DataError(f"{path}: there is nothing to write")
    return count


def validate_annotations(path: Path, model: type[BaseModel]) -> list[str]:
    """Everything that is wrong with an annotation file, as ``file:line: field: what``; empty if nothing is."""
    problems: list[str] = []
    seen: dict[Any, int] = {}
    number = 0
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                place = f"{path}:{number}"
                try:
                    record = model.model_validate(_parsed(line, place))
                except DataError as error:
                    problems += error.problems
                except ValidationError as error:
                    problems += [f"{place}: {problem}" for problem in field_problems(error)]
                else:
                    problems += _repeated_id(record, seen, number, place)
    except OSError as error:
        return [f"{path}: {error.strerror or error}"]
    return problems if number else [f"{path}: the file is empty"]


def size_remarks(sizes: Mapping[str, Mapping[str, int]], published: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One line for each split whose size is not the published one, or that is not a published split.

    Args:
        sizes, published: split -> its counts by unit, such as ``{"referents": 3811, "expressions": 10834}``.
    """
    remarks = []
    for split, counts in sizes.items():
        if split not in published:
            remarks.append(f"split '{split}' is not one of the published ones ({', '.join(published)})")
        elif counts != published[split]:
            has = " and ".join(f"{count:,} {unit}" for unit, count in counts.items())
            remarks.append(
                f"split '{split}' has {has}; published are "
                + " and ".join(f"{count:,}" for count in published[split].values())
            )
    return remarks


def load_plain_pickle(path: Path) -> Any:
    """Reads a pickle that holds only lists, tuples, dicts, sets, strings and numbers.

    A pickle can run any code of its author; here it may not import a name, so it has nothing to call. Strings of
    Python 2 are read as UTF-8, or else as Latin-1.

    Raises:
        DataError: the file is missing or damaged, or asks for anything but plain values.
    """
    try:
        content = Path(path).read_bytes()
        try:
            return read_plain(content)
        except UnicodeDecodeError:
            return read_plain(content, encoding="latin-1")  # its other texts are UTF-8 all the same
    except RefusedNameError as error:
        raise DataError(
            f"{path}: refused to load '{error.name}'. This pickle wants to run code; the official files hold only "
            "lists, dictionaries, strings and numbers. Get the file from its official source again"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable pickle ({error})") from error


def field_problems(error: ValidationError) -> list[str]:
    """One line for each error of pydantic: ``field: what (got value)``."""
    return [_field_problem(details) for details in error.errors(include_url=False)]


def _line_offsets(content: mmap.mmap) -> NDArray[np.int64]:
    """Offsets of the line starts, after a byte order mark, and of the end of the last line."""
    import numpy as np

    block_size = 1 << 24  # bounds the memory of the scan
    size = len(content)
    starts = [np.array([len(BOM_UTF8) if content[: len(BOM_UTF8)] == BOM_UTF8 else 0], np.int64)]
    for position in range(0, size, block_size):
        block = np.frombuffer(content[position : position + block_size], np.uint8)
        starts.append(np.flatnonzero(block == ord("\n")) + position + 1)
    offsets = np.concatenate(starts).astype(np.int64)
    return offsets if offsets[-1] == size else np.append(offsets, size)


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = parse_json(line.rstrip(b"\r\n"))  # with its end, json would place errors there on the next line
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 at byte {error.start} of the line") from error
    except json.JSONDecodeError as error:
        problem = "the line is empty" if not line.strip() else f"not JSON: {error.msg} at column {error.colno}"
        raise DataError(f"{place}: {problem}") from error
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: expected an object in braces, found {type(record).__name__}")
    return record


def _field_problem(details: Any) -> str:
    field = ".".join(str(part) for part in details["loc"])
    text = str(details["msg"]).removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    given = details["input"]
    if details["type"] != "missing" and not isinstance(given, Mapping | BaseModel):
        text += f" (got {short(given)})"
    return f"{field}: {text}" if field else text


def _repeated_id(record: BaseModel, seen: dict[Any, int], number: int, place: str) -> list[str]:
    identity = getattr(record, "id", None)
    if identity is None:
        return []
    first = seen.setdefault(identity, number)
    return [] if first == number else [f"{place}: id: '{identity}' is already the id of line {first}"]
