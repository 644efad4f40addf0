"""Region-feature files of other systems. A plugin adds a format with the hook ``vlrun_feature_formats``."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlrun.interfaces.examples import RegionFeatures


@dataclass(frozen=True)
class SourceRecord:
    """One image of a source, found but not decoded yet.

    Attributes:
        location: file and line or entry, for messages.
        image_id: canonical id; empty where it cannot be told, then ``load`` raises.
        load: decodes the image; raises DataError, without file name, where it is damaged.
        next: where to continue after this record; plain JSON for ``FeatureSource.records``.
        share: how much of the source lies before ``next``, in [0, 1].
    """

    location: str
    image_id: str
    load: Callable[[], RegionFeatures]
    next: Sequence[Any]
    share: float


class FeatureSource(ABC):
    """An opened source: streams its records and needs memory for one of them at a time."""

    @abstractmethod
    def files(self) -> Sequence[str | os.PathLike[str]]:
        """All files behind the source; a resumed build goes on only if none of them changed."""

    @abstractmethod
    def records(self, position: Sequence[Any] = ()) -> Iterator[SourceRecord]:
        """The records after ``position``, which is the ``next`` of an earlier one; all of them by default.

        A record that is damaged is yielded like any other. Raises DataError where the source cannot go on, or, at the
        end, where it is not complete.
        """

    @abstractmethod
    def describe(self) -> str:
        """One line for the manifest, such as ``mscoco_bua_r101_fix36 (123,287 npz files)``."""

    def num_records(self) -> int | None:
        """How many records there are, where that is known without reading them."""
        return None


def _recognises_nothing(path: Path) -> bool:
    return False


@dataclass(frozen=True)
class FeatureFormat:
    """A way in which others store region features.

    Attributes:
        name: as in ``runner features build --from NAME``.
        summary: what has to be given as SOURCE, in one line.
        open: ``(file or folder) -> FeatureSource``; raises DataError; imports what it needs when called.
        recognises: whether a file or folder looks like this format; quick.
    """

    name: str
    summary: str
    open: Callable[[Path], FeatureSource]
    recognises: Callable[[Path], bool] = _recognises_nothing


def _open_npz(path: Path) -> FeatureSource:
    from vlrun.features.formats.npz import NpzFolder

    return NpzFolder(path)


def _open_lxmert_tsv(path: Path) -> FeatureSource:
    from vlrun.features.formats.tsv import LXMERT_COLUMNS, TsvFiles

    return TsvFiles(path, LXMERT_COLUMNS)


def _open_butd_tsv(path: Path) -> FeatureSource:
    from vlrun.features.formats.tsv import BUTD_COLUMNS, TsvFiles

    return TsvFiles(path, BUTD_COLUMNS)


def _open_rosita_tsv(path: Path) -> FeatureSource:
    from vlrun.features.formats.rosita_tsv import RositaTsv

    return RositaTsv(path)


def _is_npz(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".npz"
    folder = path / "npz_files" if (path / "npz_files").is_dir() else path
    return any(entry.name.endswith(".npz") for entry in os.scandir(folder))


def _is_rosita_tsv(path: Path) -> bool:
    folder = path if path.is_dir() else path.parent
    if path.is_file() and not path.name.startswith("imgfeat"):
        return False
    return (folder / "imgfeat.tsv").is_file() or (folder / "imgfeat_split0.tsv").is_file()


def _first_columns(path: Path) -> list[bytes]:
    """Columns of the first line of a TSV file, or of the first one in a folder."""
    files = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    if not files or files[0].suffix != ".tsv":
        return []
    with files[0].open("rb") as file:
        return file.readline(64 << 20).rstrip(b"\r\n").split(b"\t")


def _is_lxmert_tsv(path: Path) -> bool:
    columns = _first_columns(path)
    return len(columns) in (10, 13) and columns[1].isdigit() and columns[2].isdigit()


def _is_butd_tsv(path: Path) -> bool:
    columns = _first_columns(path)
    return len(columns) == 6 and columns[1].isdigit() and columns[2].isdigit()


BUILTIN_FORMATS = (
    FeatureFormat(
        "npz",
        "folder of .npz files, one per image, as bottom-up-attention.pytorch and ROSITA write them",
        _open_npz,
        _is_npz,
    ),
    FeatureFormat(
        "rosita-tsv",
        "folder with imgfeat.tsv, imgfeat.lineidx and img_feat_offset_map.json",
        _open_rosita_tsv,
        _is_rosita_tsv,
    ),
    FeatureFormat(
        "lxmert-tsv",
        "TSV file of 10 columns (img_id, img_h, img_w, ...), or a folder of them",
        _open_lxmert_tsv,
        _is_lxmert_tsv,
    ),
    FeatureFormat(
        "butd-tsv",
        "TSV file of 6 columns (image_id, image_w, image_h, ...), or a folder of them",
        _open_butd_tsv,
        _is_butd_tsv,
    ),
)
