"""Pictures that are read and decoded while a run works: from a folder, or from an LMDB of encoded ones."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlrun.errors import DataError, first_few
from vlrun.features.decoding import OWN_FORMATS, open_picture
from vlrun.features.extract import find_pictures
from vlrun.features.handles import DATA_FILE, Handle, is_lmdb, shared_handle
from vlrun.features.store import RegionFeatureStore, same_image
from vlrun.interfaces.examples import RegionBatch, canonical_image_id
from vlrun.interfaces.pictures import PictureShape

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT_BYTES = 128 * 2**20
"""Scaled pictures that a process keeps, so that a small collection is decoded once."""

_Decoded = tuple[NDArray[np.uint8], tuple[int, int]]

_LISTS = (b"keys", b"__keys__", b"__len__")
"""What some LMDB files hold beside their pictures."""


class PictureStore:
    """Pictures by canonical image id, as a backbone wants them.

    Picklable, and safe with fork and spawn. It answers as ``RegionFeatureStore`` does: each picture has one region,
    which is all of it.
    """

    def __init__(self, path: Path, shape: PictureShape) -> None:
        """Lists the pictures and opens none.

        Args:
            path: a folder of JPEG and PNG files, also in folders below it; or an LMDB, a file or the folder of one,
                with the content of such a file under each name.

        Raises:
            DataError: there are none, or two of them are of one image id.
        """
        self.path, self.shape = Path(path), shape
        self._files: _Files = _files_at(self.path)
        self._kept: dict[str, _Decoded] = {}
        self._room = KEPT_BYTES

    @classmethod
    def of_files(cls, files: Mapping[str, Path], shape: PictureShape) -> PictureStore:
        """The pictures in some files, by image id; nothing is looked at yet."""
        store = cls.__new__(cls)
        store.path, store.shape, store._files = Path(), shape, _Folder(dict(files))
        store._kept, store._room = {}, KEPT_BYTES
        return store

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}, "_room": KEPT_BYTES}

    def with_files(self, files: Mapping[str, Path]) -> PictureStore:
        """These pictures and some others, by image id."""
        store = self.of_files({}, self.shape)
        store.path, store._files = self.path, _Joined(self._files, _Folder(files))
        return store

    extractor = ""
    """Nothing made features of them."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the ids and of the size of each file in bytes, which differ wherever pictures do but by design.

        Neither dates nor content count: a copy is the same, and to read a large collection would take minutes.
        """
        digest = hashlib.blake2b(digest_size=16)
        for image_id, size in sorted(self._files.sizes()):
            digest.update(f"{image_id}\x1f{size}\n".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._files.names)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._files.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._files.names)

    def image_ids(self) -> list[str]:
        """All canonical ids, sorted."""
        return sorted(self._files.names)

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """The ids without a picture: each once, in order of first appearance."""
        return [image_id for image_id in dict.fromkeys(image_ids) if image_id not in self._files.names]

    def find_same_image(self, image_id: str) -> str | None:
        """As ``RegionFeatureStore.find_same_image``."""
        return same_image(image_id, self._files.names)

    def read(self, image_ids: Sequence[str]) -> RegionBatch:
        """The pictures of P images, in the given order, each decoded once; an id may repeat.

        Raises:
            DataError: an image has no picture, or it is damaged, too large, or of another kind.
            UsageError: Pillow is not installed.
        """
        if unknown := self.missing(image_ids):
            images = f"{len(self):,} picture{'s' * (len(self) != 1)}"
            raise DataError([f"image '{name}' has no picture in {self.path} ({images})" for name in unknown[:5]])
        decoded = {image_id: self._decoded(image_id) for image_id in dict.fromkeys(image_ids)}
        pictures = [decoded[image_id][0] for image_id in image_ids]
        pixel_sizes = np.array([picture.shape[:2] for picture in pictures], np.int64).reshape(-1, 2)
        pixels = np.zeros((len(pictures), *pixel_sizes.max(axis=0, initial=0), 3), np.uint8)
        for row, picture in enumerate(pictures):
            pixels[row, : picture.shape[0], : picture.shape[1]] = picture
        return _whole(image_ids, [decoded[image_id][1] for image_id in image_ids], pixels, pixel_sizes)

    read_with_classes = read

    def outline(self, image_ids: Sequence[str], *, with_classes: bool = False) -> RegionBatch:
        """What ``read`` gives, with black pictures of one pixel."""
        count = len(image_ids)
        return _whole(image_ids, [(1, 1)] * count, np.zeros((count, 1, 1, 3), np.uint8), np.ones((count, 2), np.int64))

    def _decoded(self, image_id: str) -> _Decoded:
        """A scaled picture (H, W, 3), and the (height, width) of the original; the first ones are kept."""
        if image_id in self._kept:
            return self._kept[image_id]
        file, name = self._files.opened(image_id)
        picture = open_picture(file, f"image '{image_id}' ({name})", formats=OWN_FORMATS)
        decoded = np.asarray(scaled(picture, self.shape)), (picture.height, picture.width)
        if decoded[0].nbytes <= self._room:
            self._room -= decoded[0].nbytes
            self._kept[image_id] = decoded
        return decoded


ImageStore = RegionFeatureStore | PictureStore
"""Where the images of a run are read from."""


def scaled(picture: Image, shape: PictureShape) -> Image:
    """The picture in the size that a backbone wants."""
    from PIL.Image import Resampling

    height, width = shape.scaled(picture.height, picture.width)
    resized = picture.resize((width, height), Resampling.BICUBIC)
    if not shape.crop:
        return resized
    left, top = (width - shape.shorter) // 2, (height - shape.shorter) // 2
    return resized.crop((left, top, left + shape.shorter, top + shape.shorter))


def _whole(
    image_ids: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    pixels: NDArray[np.uint8],
    pixel_sizes: NDArray[np.int64],
) -> RegionBatch:
    """Pictures with one region each."""
    count = len(image_ids)
    height_width = np.array(sizes, np.float32).reshape(-1, 2)
    boxes = np.zeros((count, 1, 4), np.float32)
    boxes[:, 0, 2:] = height_width[:, ::-1]
    features, mask = np.zeros((count, 1, 0), np.float32), np.ones((count, 1), bool)
    return RegionBatch(tuple(image_ids), features, boxes, mask, height_width, pixels=pixels, pixel_sizes=pixel_sizes)


class _Files(ABC):
    """Encoded pictures by image id; ``names`` says where each is."""

    names: Mapping[str, Any]

    @abstractmethod
    def sizes(self) -> Iterator[tuple[str, int]]:
        """Each id with the bytes of its file."""

    @abstractmethod
    def opened(self, image_id: str) -> tuple[Path | IO[bytes], str]:
        """A picture to decode, and its name for messages."""


class _Folder(_Files):
    def __init__(self, names: Mapping[str, Path]) -> None:
        self.names: Mapping[str, Path] = names

    def sizes(self) -> Iterator[tuple[str, int]]:
        return ((image_id, path.stat().st_size) for image_id, path in self.names.items())

    def opened(self, image_id: str) -> tuple[Path | IO[bytes], str]:
        path = self.names[image_id]
        return path, str(path)


class _Joined(_Files):
    def __init__(self, first: _Files, second: _Files) -> None:
        self.parts = (second, first)  # the last one counts
        self.names = {**first.names, **second.names}

    def sizes(self) -> Iterator[tuple[str, int]]:
        return ((image_id, size) for part in self.parts for image_id, size in part.sizes())

    def opened(self, image_id: str) -> tuple[Path | IO[bytes], str]:
        return next(part.opened(image_id) for part in self.parts if image_id in part.names)


class _Lmdb(_Files):
    def __init__(self, file: Path) -> None:
        self.file = file
        self._handle: Handle | None = None
        with shared_handle(file).reading() as transaction:
            keys = [bytes(key) for key in transaction.cursor().iternext(values=False)]
        named = ((key, canonical_image_id(key.decode(errors="replace"))) for key in keys if key not in _LISTS)
        self.names: Mapping[str, bytes] = _by_id(file, ((name, key) for key, name in named))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def sizes(self) -> Iterator[tuple[str, int]]:
        with shared_handle(self.file).reading() as transaction:
            for image_id, key in self.names.items():
                yield image_id, len(transaction.get(key))

    def opened(self, image_id: str) -> tuple[Path | IO[bytes], str]:
        self._handle = shared_handle(self.file)  # kept, or each reading would open the file
        with self._handle.reading() as transaction:
            return BytesIO(transaction.get(self.names[image_id])), f"in {self.file}"


def _files_at(path: Path) -> _Files:
    file = path / DATA_FILE if path.is_dir() else path
    if file.is_file() and is_lmdb(file):
        return _Lmdb(file)
    if path.is_file():
        raise DataError(f"{path} is no folder of pictures and no LMDB file")
    return _Folder(_by_id(path, ((canonical_image_id(found.name), found) for found in find_pictures(path))))


def _by_id(path: Path, named: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Raises DataError where two pictures are of one image."""
    found: dict[str, Any] = {}
    twice = [image_id for image_id, place in named if found.setdefault(image_id, place) is not place]
    if twice:
        listed = ", ".join(first_few(twice, 5))
        raise DataError(f"{path}: {len(twice):,} pictures have the image id of another one: {listed}; keep one of each")
    return found
