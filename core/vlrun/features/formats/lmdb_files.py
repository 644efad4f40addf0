"""LMDB files of other projects: a value per image, and a list of all keys beside them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from vlrun.errors import DataError, first_few
from vlrun.features.formats import FeatureSource, SourceRecord
from vlrun.features.formats.fields import regions_from
from vlrun.features.handles import DATA_FILE, is_lmdb, shared_handle
from vlrun.foreign.pickled_arrays import read_pickle
from vlrun.interfaces.examples import RegionFeatures, canonical_image_id


class LmdbRecords(FeatureSource):
    """The images of an LMDB, in the order of their keys.

    A layout says under which key its list of keys lies and how a value is read.
    """

    list_keys: tuple[bytes, ...]

    def __init__(self, path: Path) -> None:
        file = lmdb_file(path)
        if file is None:
            raise DataError(f"{path} is no LMDB file and no folder with a {DATA_FILE}")
        self._file = file
        self._handle = shared_handle(file, readahead=True)  # it is read from end to end
        self._description = path.name

    def files(self) -> Sequence[Path]:
        return [self._file]

    def num_records(self) -> int:
        return len(self.keys)

    def describe(self) -> str:
        return f"{self._description} ({len(self.keys):,} records)"

    @cached_property
    def keys(self) -> list[bytes]:
        """The keys of all images.

        Raises:
            DataError: the list in the file names images that have no record, or cannot be read.
        """
        with self._handle.reading() as transaction:
            there = [bytes(key) for key in transaction.cursor().iternext(values=False)]
            images = [key for key in there if key not in self.list_keys]
            for name in self.list_keys:
                if (content := transaction.get(name)) is not None:
                    listed = self._listed(name, bytes(content))
                    known = set(images)
                    if lost := [key.decode(errors="replace") for key in listed if key not in known]:
                        raise DataError(
                            f"{self._file}: its list '{name.decode()}' names {len(lost):,} images without a record: "
                            f"{', '.join(first_few(lost, 5))}; the file is not complete"
                        )
        return images

    def _listed(self, name: bytes, content: bytes) -> list[bytes]:
        try:
            listed = self.read_list(content)
        except (DataError, ValueError) as error:
            raise DataError(f"{self._file}: its list '{name.decode()}' cannot be read: {error}") from error
        if not isinstance(listed, list):
            raise DataError(f"{self._file}: '{name.decode()}' is {type(listed).__name__}, expected a list of keys")
        return [key if isinstance(key, bytes) else str(key).encode() for key in listed]

    def read_list(self, content: bytes) -> Any:
        """The list of keys in a value."""
        return read_pickle(content)

    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        start = position[0] if position else 0
        for number in range(start, len(self.keys)):
            key = self.keys[number]
            name = key.decode(errors="replace")
            image_id, load = self._opened(key, name)
            yield SourceRecord(
                location=f"{self._file}: key '{name}'",
                image_id=image_id,
                load=load,
                next=(number + 1,),
                share=(number + 1) / len(self.keys),
            )

    def _opened(self, key: bytes, name: str) -> tuple[str, Any]:
        """The id of an image and what decodes it, or raises what was wrong with it."""
        try:
            with self._handle.reading() as transaction:
                content = bytes(transaction.get(key))
            values = self.read_value(content)
            image_id = self.image_id(name, values)
            return image_id, partial(self.decode, image_id, values)
        except DataError as error:
            return canonical_image_id(name), partial(_raise, error)

    @abstractmethod
    def read_value(self, content: bytes) -> dict[str, Any]:
        """The named values of an image; raises DataError."""

    def image_id(self, key: str, values: dict[str, Any]) -> str:
        """The canonical id of the image under ``key``; raises DataError where its values say another."""
        return canonical_image_id(key)

    def decode(self, image_id: str, values: dict[str, Any]) -> RegionFeatures:
        """The image; raises DataError."""
        return regions_from(image_id, values)


class PickledLmdb(LmdbRecords):
    """ViLBERT's, VOLTA's and MMF's: pickled dicts, read without running anything in them."""

    list_keys = (b"keys",)

    def read_value(self, content: bytes) -> dict[str, Any]:
        values = read_pickle(content)
        if not isinstance(values, dict):
            raise DataError(f"holds {type(values).__name__}, expected a dict")
        return {str(name): value for name, value in values.items()}

    def image_id(self, key: str, values: dict[str, Any]) -> str:
        """The id in the value, where its number is the key: VOLTA's keys are the numbers of COCO's images."""
        stated = values.get("img_id", values.get("image_id"))
        stated = stated.decode(errors="replace") if isinstance(stated, bytes) else stated
        if stated is None or canonical_image_id(str(stated)) == canonical_image_id(key):
            return canonical_image_id(key)
        ours, theirs = canonical_image_id(key), canonical_image_id(str(stated))
        if _number(ours) is None or _number(ours) != _number(theirs):
            raise DataError(f"says it is image '{theirs}'")
        return max(ours, theirs, key=len)


def _number(image_id: str) -> int | None:
    digits = image_id.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else None


def lmdb_file(path: Path) -> Path | None:
    """The LMDB file behind a file or folder; None where there is none."""
    file = path / DATA_FILE if path.is_dir() else path
    return file if file.is_file() and is_lmdb(file) else None


def first_value(path: Path) -> tuple[bytes, bytes] | None:
    """A key and value of an LMDB of another project, to recognise it by; None where there is none.

    Raises:
        DataError: the file is damaged.
    """
    file = lmdb_file(path)
    if file is None:
        return None
    with shared_handle(file).reading() as transaction:
        for key, value in transaction.cursor():
            if bytes(key) not in (b"keys", b"__keys__"):
                return bytes(key), bytes(value)
    return None


def has_list(path: Path, name: bytes) -> bool:
    """Whether an LMDB holds ``name`` beside its images."""
    file = lmdb_file(path)
    if file is None:
        return False
    with shared_handle(file).reading() as transaction:
        return transaction.get(name) is not None


def is_vilbert_lmdb(path: Path) -> bool:
    """Whether this is an LMDB of ViLBERT or VOLTA."""
    return _is_pickled(path) and not is_mmf_lmdb(path)


def is_mmf_lmdb(path: Path) -> bool:
    """Whether this is an LMDB of MMF."""
    found = first_value(path) if _is_pickled(path) else None
    return found is not None and b"image_height" in found[1] and b"bbox" in found[1]


def _is_pickled(path: Path) -> bool:
    found = first_value(path)
    return found is not None and has_list(path, b"keys") and found[1][:1] in (b"\x80", b"(")


def _raise(error: DataError) -> RegionFeatures:
    raise error
