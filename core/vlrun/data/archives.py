"""Unpacking archives that somebody else made: nothing leaves the folder, links and devices are refused."""

from __future__ import annotations

import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vlrun.errors import DataError
from vlrun.files import room_for
from vlrun.interfaces.reporter import ProgressCallback

_BLOCK = 1 << 20
_MAX_MEMBERS = 5_000_000


_OF_ARCHIVES = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, NotImplementedError),
    *(ValueError, IndexError, OverflowError, struct.error),  # names that are none, and numbers that cannot be
)
"""What the libraries raise for damaged archives."""


class DamagedArchiveError(DataError):
    """An archive that is not what its owner published: getting it again may help."""


@dataclass(frozen=True)
class _Member:
    """What an archive says of one file or folder in it."""

    name: str
    size: int
    is_folder: bool
    refusal: str
    handle: Any


def unpack(archive: Path, folder: Path, progress: ProgressCallback = lambda what, done, total: None) -> list[Path]:
    """Unpacks a zip or tar file into ``folder`` and returns the files; all of it, or nothing.

    Raises:
        DamagedArchiveError: it is damaged, a DataError as the others.
        DataError: a member would leave the folder, is a link or a device, comes twice, is larger
            than it says, or does not fit on the disk.
    """
    try:
        with _opened(archive) as (members, open_member):
            targets = _checked(archive, members, folder)
            return _written(archive, targets, open_member, folder, progress)
    except _OF_ARCHIVES as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise DamagedArchiveError(f"{archive}: damaged, or not an archive ({reason}); get it again") from error
    except RuntimeError as error:  # what zipfile raises for an encrypted member
        raise DataError(f"{archive}: {error}") from error
    except OSError as error:
        raise DataError(f"{archive}: {error.strerror or error}") from error


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[list[_Member], Any]]:
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            yield [_zip_member(info) for info in opened.infolist()], opened.open
    else:
        with tarfile.open(archive) as opened_tar:
            yield [_tar_member(info) for info in _bounded(opened_tar)], opened_tar.extractfile


def _bounded(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number, info in enumerate(archive):
        if number >= _MAX_MEMBERS:
            raise tarfile.ReadError(f"more than {_MAX_MEMBERS:,} members")
        yield info


def _zip_member(info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    refusal = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or a device"
    return _Member(info.filename, info.file_size, info.is_dir(), refusal, info)


def _tar_member(info: tarfile.TarInfo) -> _Member:
    refusal = "" if info.isreg() or info.isdir() else "a link or a device"
    return _Member(info.name, info.size, info.isdir(), refusal, info)


def _checked(archive: Path, members: list[_Member], folder: Path) -> dict[PurePosixPath, _Member]:
    """The files by their path in the folder; refuses before anything is written."""
    files: dict[PurePosixPath, _Member] = {}
    for member in members:
        path = PurePosixPath(member.name.replace("\\", "/"))
        refusal = member.refusal
        if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]:
            refusal = "outside the folder"
        elif path in files and not member.is_folder:
            refusal = "there twice"
        if refusal:
            raise DataError(f"{archive}: '{member.name}' is {refusal}; nothing was unpacked")
        if not member.is_folder and path.parts:
            files[path] = member
    parents = {parent for path in files for parent in path.parents}
    if both := sorted(str(path) for path in parents & files.keys()):
        raise DataError(f"{archive}: '{both[0]}' is a file and a folder; nothing was unpacked")
    needed = sum(member.size for member in files.values())
    folder.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(folder).free):
        raise DataError(f"{archive}: needs {needed:,} bytes in {folder}, {free:,} are free; nothing was unpacked")
    return files


def _written(
    archive: Path, files: dict[PurePosixPath, _Member], open_member: Any, folder: Path, progress: ProgressCallback
) -> list[Path]:
    """Writes into a folder beside the target first, so that a kill or a damaged member leaves no half of it."""
    total, done = sum(member.size for member in files.values()), 0
    with room_for(folder, total), tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as name:
        for path, member in files.items():
            target = Path(name, *path.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member(member.handle) as source, target.open("xb") as out:
                for block in _blocks(archive, source, member):
                    out.write(block)
                    done += len(block)
                    progress(f"unpacking {archive.name} (MB)", done // 10**6, total // 10**6)
        unpacked = []
        for path in files:
            target = folder.joinpath(*path.parts)
            if target.parent.resolve() != folder.resolve().joinpath(*path.parts[:-1]):
                raise DataError(f"{archive}: '{path}' would go through a link in {folder}; it was not unpacked")
            target.parent.mkdir(parents=True, exist_ok=True)
            Path(name, *path.parts).replace(target)
            unpacked.append(target)
    return unpacked


def _blocks(archive: Path, source: IO[bytes], member: _Member) -> Iterator[bytes]:
    read = 0
    while block := source.read(_BLOCK):
        read += len(block)
        if read > member.size:
            raise DamagedArchiveError(
                f"{archive}: '{member.name}' is larger than the archive says; nothing was unpacked"
            )
        yield block
    if read != member.size:
        raise DamagedArchiveError(f"{archive}: '{member.name}' ends too early; nothing was unpacked")
