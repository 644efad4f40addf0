"""Reading region features: by image, or a whole batch gathered into one array."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrun.errors import DataError, first_few
from vlrun.features.handles import Handle, find_store_file, shared_handle
from vlrun.features.layout import (
    CLASS_FIELDS,
    Header,
    Manifest,
    boxes_view,
    class_views,
    decode,
    features_as_bytes,
    is_intact,
    read_header,
)
from vlrun.features.origin import FeatureOrigin
from vlrun.interfaces.examples import RegionBatch, RegionFeatures, canonical_image_id

_PAGE = 4096
_SHORTEST_COCO_NUMBER = 6  # digits; the number at the end of NLVR2's dev-850-0-img0 is no image number


class RegionFeatureStore:
    """Region features by canonical image id.

    Picklable, and safe with fork, spawn and forkserver: a process opens the file when it first reads, and its stores
    over one file share a handle. All results are copies. A record is compared with its checksum when it is read first,
    and a store that another program changes is refused from then on.
    """

    def __init__(self, path: str | os.PathLike[str], copy: Path | None = None, fingerprint: str | None = None) -> None:
        """Finds the file of a store.

        Args:
            path: the folder that ``runner features build`` made, the ``data.mdb`` in it, or a single-file store.
            copy: a copy of it, to be read instead.
            fingerprint: that it must have; None takes the one that it has when it is first read.

        Raises:
            DataError: there is no store; the message lists what is there.
        """
        self.path: Path = Path(path)
        self.copy = copy
        self.file: Path = find_store_file(copy or self.path).resolve()
        self._handle: Handle | None = None
        self._process = 0
        self._fingerprint = fingerprint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path.absolute(), self.copy, self._fingerprint)

    def __repr__(self) -> str:
        return f"RegionFeatureStore({str(self.path)!r})"

    @property
    def manifest(self) -> Manifest:
        """What the store says about itself."""
        return self._open().manifest

    @property
    def fingerprint(self) -> str:
        """Hash of the content: equal for equal ids and records, however the store was built."""
        return self.manifest.fingerprint

    @property
    def extractor(self) -> str:
        """Name of what made the features; empty where it is unknown."""
        return FeatureOrigin(self.manifest.extractor).name

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the features."""
        return np.dtype(self.manifest.dtype)

    def __len__(self) -> int:
        return self.manifest.count

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._open().checked.positions

    def __iter__(self) -> Iterator[str]:
        return iter(self.image_ids())

    def image_ids(self) -> list[str]:
        """All canonical ids, sorted by their UTF-8 bytes."""
        return list(self._open().ids)

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """The ids without features: each once, in order of first appearance."""
        known = self._open().checked.positions
        return [image_id for image_id in dict.fromkeys(image_ids) if image_id not in known]

    def find_same_image(self, image_id: str) -> str | None:
        """The stored id with the same COCO number: ``58350`` and ``COCO_val2014_000000058350`` are one image."""
        return same_image(image_id, self._open().ids)

    def __getitem__(self, image_id: str) -> RegionFeatures:
        """One image with all its arrays.

        Raises:
            DataError: the image has no features, or its record is damaged.
        """
        with self._records([image_id]) as records:
            return decode(image_id, records.values[image_id])

    def read(self, image_ids: Sequence[str]) -> RegionBatch:
        """The features of P images, in the given order; an id may repeat.

        They keep the type of the store: float16 is cast on the device, where it costs nothing; here it would make
        reading eight times slower.

        Raises:
            DataError: an image has no features, or its record is damaged.
        """
        with self._records(image_ids) as records:
            return self._read(records)

    def read_with_classes(self, image_ids: Sequence[str]) -> RegionBatch:
        """What ``read`` gives, and what the detector saw in the regions, as far as the store has it.

        Raises:
            DataError: as for ``read``; or some of the images have classes and others have none.
        """
        with self._records(image_ids) as records:
            classes: Any = self._classes(records)
            return replace(self._read(records), **classes)

    def outline(self, image_ids: Sequence[str], *, with_classes: bool = False) -> RegionBatch:
        """What ``read`` gives, but nothing of the features is read: they are zeros that take no memory.

        Args:
            with_classes: whether it is what ``read_with_classes`` gives.

        Raises:
            DataError: as for ``read`` or ``read_with_classes``.
        """
        with self._records(image_ids) as records:
            classes: Any = self._classes(records) if with_classes else {}
            counts = records.num_regions()
            shape = (len(records.ids), int(counts.max(initial=0)), self.manifest.feature_width)
            zero = np.zeros(1, self.manifest.dtype)
            outline = records.as_batch(np.lib.stride_tricks.as_strided(zero, shape, (0, 0, 0)), counts)
            return replace(outline, **classes)

    def read_features(self, image_ids: Sequence[str], into: NDArray[Any]) -> None:
        """Writes the features of P images into ``into``: the first R regions of each, and zeros where it has fewer.

        Args:
            into: (P, R, D) in the type of the store, contiguous.

        Raises:
            DataError: as for ``read``.
        """
        with self._records(image_ids) as records:
            records.copy_features(into)

    def num_regions(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """The number of regions of each image; reads no more than it must.

        Raises:
            DataError: as for ``read``.
        """
        if self.manifest.min_regions == self.manifest.max_regions and not self.missing(image_ids):
            return np.full(len(image_ids), self.manifest.max_regions, np.int64)
        with self._records(image_ids, is_checked=False) as records:
            return records.num_regions()

    def touch(self, image_ids: Sequence[str]) -> None:
        """Lets the system read these images from disk into its cache, which all processes share."""
        with self._records(image_ids) as records:
            for value in records.values.values():
                np.frombuffer(value, np.uint8)[::_PAGE].sum()

    @contextmanager
    def _records(self, image_ids: Sequence[str], *, is_checked: bool = True) -> Iterator[_Records]:
        """The records of some images, for as long as the context lasts.

        Args:
            is_checked: compare those that are read for the first time with their checksums.
        """
        ids = tuple(image_ids)
        positions: dict[str, list[int]] = {}
        for position, image_id in enumerate(ids):
            positions.setdefault(image_id, []).append(position)
        handle = self._open()
        manifest = handle.manifest
        dtype = np.dtype(manifest.dtype)
        with handle.reading() as transaction:
            # in key order, neighbours on disk are read one after the other
            values = {image_id: transaction.get(image_id.encode()) for image_id in sorted(positions)}
            if unknown := [image_id for image_id in positions if values[image_id] is None]:
                raise self._unknown(unknown)
            headers = {image_id: self._header(image_id, value, manifest, dtype) for image_id, value in values.items()}
            if is_checked:
                self._check(values, headers, handle)
            yield _Records(ids, positions, values, headers)

    def _read(self, records: _Records) -> RegionBatch:
        counts = records.num_regions()
        shape = (len(records.ids), int(counts.max(initial=0)), self.manifest.feature_width)
        features = np.empty(shape, self.manifest.dtype)
        records.copy_features(features)
        return records.as_batch(features, counts)

    def _classes(self, records: _Records) -> dict[str, NDArray[Any]]:
        kinds = {header.optional for header in records.headers.values()}
        if len(kinds) > 1:
            fewest = min(kinds, key=int.bit_count)
            poor = [image_id for image_id, header in records.headers.items() if header.optional == fewest]
            raise DataError(
                f"{self.path}: some images have what the detector saw (classes, attributes and scores) and others have "
                f"less of it, such as {', '.join(first_few(poor, 3))}; build the region features again from one source"
            )
        return records.classes()

    def _header(self, image_id: str, value: memoryview, manifest: Manifest, dtype: np.dtype[Any]) -> Header:
        try:
            header = read_header(value)
        except ValueError as error:
            raise self._damaged(image_id, error) from error
        if header.feature_width != manifest.feature_width or header.dtype != dtype:
            kind = f"{header.dtype} features of width {header.feature_width}"
            raise self._damaged(image_id, f"{kind} in a store of {dtype} and {manifest.feature_width}")
        return header

    def _check(self, values: Mapping[str, memoryview], headers: Mapping[str, Header], handle: Handle) -> None:
        """Compares records with their checksums, each once: that takes longer than to copy them."""
        checked = handle.checked
        for image_id, value in values.items():
            if image_id in checked:
                continue
            if not is_intact(image_id.encode(), value, headers[image_id]):
                raise self._damaged(image_id, "its checksum is wrong, so it changed after it was written")
            checked.add(image_id)

    def _open(self) -> Handle:
        if self._handle is None or self._process != os.getpid():
            handle = shared_handle(self.file)
            found = handle.manifest.fingerprint
            if self._fingerprint not in (None, found):
                raise DataError(
                    f"{self.path} was replaced by another store while it was in use: its fingerprint was "
                    f"{self._fingerprint} and is {found}. Put it back, then continue the run with --resume"
                )
            self._handle, self._process, self._fingerprint = handle, os.getpid(), found
        return self._handle

    def _unknown(self, image_ids: Sequence[str]) -> DataError:
        problems = []
        for image_id in image_ids[:5]:
            same = self.find_same_image(image_id)
            hint = f"; did you mean '{same}'?" if same else ""
            images = "image" if len(self) == 1 else "images"
            problems.append(f"image '{image_id}' has no region features in {self.path} ({len(self):,} {images}){hint}")
        return DataError([*problems, *first_few(image_ids, 5)[5:]])

    def _damaged(self, image_id: str, reason: object) -> DataError:
        return DataError(f"image '{image_id}' is damaged in {self.path}: {reason}; see `runner features verify`")


def same_image(image_id: str, known: Iterable[str]) -> str | None:
    """That of the ``known`` ids which has the COCO number of an id; None if there is none."""
    number = _coco_number(canonical_image_id(image_id))
    return number and next((each for each in known if _coco_number(each) == number), None)


def _coco_number(image_id: str) -> str | None:
    digits = re.search(r"\d+$", image_id)
    if digits is None or not (digits.start() == 0 or len(digits[0]) >= _SHORTEST_COCO_NUMBER):
        return None
    return digits[0].lstrip("0") or "0"


@dataclass(frozen=True)
class _Records:
    """The records of the images ``ids``, as long as their transaction lasts.

    Attributes:
        positions: where an image stands in ``ids``.
        values, headers: of each distinct image, in key order.
    """

    ids: tuple[str, ...]
    positions: Mapping[str, Sequence[int]]
    values: Mapping[str, memoryview]
    headers: Mapping[str, Header]

    def num_regions(self) -> NDArray[np.int64]:
        return np.array([self.headers[image_id].num_regions for image_id in self.ids], np.int64)

    def copy_features(self, into: NDArray[Any]) -> None:
        if not into.size:
            return
        rows = into.view(np.uint8).reshape(len(self.ids), -1)  # numpy copies bytes a quarter faster than float16
        for image_id, value in self.values.items():
            found = features_as_bytes(value, self.headers[image_id])[: rows.shape[1]]
            for position in self.positions[image_id]:
                rows[position, : len(found)] = found
                rows[position, len(found) :] = 0

    def classes(self) -> dict[str, NDArray[Any]]:
        """The arrays of ``CLASS_FIELDS`` that the records have, (P, R) each."""
        shape = (len(self.ids), max((header.num_regions for header in self.headers.values()), default=0))
        arrays: dict[str, NDArray[Any]] = {}
        for image_id, value in self.values.items():
            for name, own in class_views(value, self.headers[image_id]).items():
                array = arrays.setdefault(name, np.zeros(shape, CLASS_FIELDS[name]))
                for position in self.positions[image_id]:
                    array[position, : len(own)] = own
        return arrays

    def as_batch(self, features: NDArray[Any], counts: NDArray[np.int64]) -> RegionBatch:
        boxes = np.zeros((*features.shape[:2], 4), np.float32)
        for image_id, value in self.values.items():
            header = self.headers[image_id]
            own = boxes_view(value, header)
            for position in self.positions[image_id]:
                boxes[position, : header.num_regions] = own
        sizes = [(self.headers[image_id].height, self.headers[image_id].width) for image_id in self.ids]
        return RegionBatch(
            image_ids=self.ids,
            features=features,
            boxes=boxes,
            mask=np.arange(features.shape[1]) < counts[:, None],
            sizes=np.array(sizes, np.float32).reshape(-1, 2),
        )
