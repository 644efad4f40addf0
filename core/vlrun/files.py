"""Writing files so that a kill leaves the old one or the new one; reading JSON; hashing."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vlrun.errors import DataError, NoRoomError, no_room
from vlrun.foreign.json import parse_json
from vlrun.foreign.printing import plain

_MOST_BYTES = 1 << 32
"""Of JSON that is read as a whole; a compressed file may be a thousand times its size."""

_MOST_UNPACKED, _MOST_TIMES = 1 << 30, 100
"""Bytes of arrays that a file of any size may hold, and how many times its own size a larger one may."""

_DRAFT = ".partial"
_DRAFT_NAME = re.compile(r"\..+\.(?P<process>\d+)\.\w{8}\.partial")

_LONGEST_NAME = 200
"""Bytes; a file system takes 255, of which that of the draft needs some."""

_INSIDE: ContextVar[Path | None] = ContextVar("_INSIDE", default=None)


@dataclass
class Room:
    """What there was room for: ``written`` bytes, for a message that does not know how many are needed."""

    written: int | None = None


@contextmanager
def room_for(path: Path, needed: int | None = None) -> Iterator[Room]:
    """For what writes ``path``, of so many bytes where they are known: a full disk is an error that says so.

    Raises:
        NoRoomError: in place of an error that does not name the file.
    """
    room = Room()
    try:
        yield room
    except NoRoomError:  # of a part of it
        raise
    except OSError as error:
        if (found := no_room(error, path, needed, room.written)) is None:
            raise
        raise found from error


@contextmanager
def atomic_write(path: Path, mode: str = "w", needed: int | None = None) -> Iterator[IO[Any]]:
    """Opens a temporary file beside ``path``: on success it is synced and takes its place, on failure it is removed.

    Args:
        needed: bytes of the whole file, where they are known.

    Raises:
        DataError: ``path`` is not inside the folder that ``writing_inside`` names, or its name has control characters.
        NoRoomError: it does not fit on the disk.
    """
    _refuse_outside(path)
    with room_for(path, needed) as room:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_draft_prefix(path), suffix=_DRAFT)
        draft = Path(name)
        try:
            with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            make_readable(draft)
            os.replace(draft, path)
        except BaseException:
            room.written = draft.stat().st_size if draft.exists() else None
            draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def writing_inside(folder: Path) -> Iterator[None]:
    """Lets ``atomic_write``, and all that writes through it, write into ``folder`` alone while it is open.

    For code that makes names of files of what it reads: a split in somebody's annotations may be called ``../../x``,
    or ``train.jsonl/x``. Folders in ``folder`` have to be made before files in them are written.
    """
    token = _INSIDE.set(folder.resolve())
    try:
        yield
    finally:
        _INSIDE.reset(token)


def _refuse_outside(path: Path) -> None:
    """Refuses what cannot be a file of the folder, too."""
    folder = _INSIDE.get()
    if folder is None:
        return
    if "\0" in str(path):
        what = "holds a zero byte"
    elif not path.resolve().is_relative_to(folder):
        what = f"lies outside {folder}"
    elif not os.path.isdir(path.parent):  # Path.is_dir raises where a name is too long
        what = "is in a folder that is not there"
    elif len(path.name.encode(errors="replace")) > _LONGEST_NAME:
        what = f"has a name of more than {_LONGEST_NAME} bytes"
    elif plain(path.name) != path.name:
        what = "has control characters"
    else:
        return
    raise DataError(f"{str(path)[:300]!r} {what}: a name in the source cannot be the name of a file")


@contextmanager
def made_whole(path: Path) -> Iterator[Path]:
    """A place beside ``path`` for a file or folder: on success it is synced and moved there, on failure it is removed.

    A file takes the place of an earlier one; no folder may be at ``path`` yet.

    Raises:
        NoRoomError: it does not fit on the disk.
    """
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=_draft_prefix(path), suffix=_DRAFT, dir=path.parent))
        try:
            draft = holder / path.name
            yield draft
            for inner in [*draft.rglob("*"), draft]:
                _sync(inner)
            os.rename(draft, path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(holder, ignore_errors=True)


def folder_from(variable: str, default: str) -> Path:
    """The folder that an environment variable names, or ``default`` if it is unset or empty; absolute."""
    return Path(os.environ.get(variable) or default).expanduser().absolute()


def read_object_or_empty(path: Path) -> dict[str, Any]:
    """The JSON object in a file that may be missing or damaged; then an empty one."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_json(path: Path) -> Any:
    """The content of a JSON file, which may be compressed (``.gz``).

    Raises:
        DataError: it is missing, damaged, cut off, or larger than 4 GiB.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise DataError(f"{path}: more than {_MOST_BYTES:,} bytes of JSON; no file of this kind is so large")
        return parse_json(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not readable gzip ({error}); get the file again") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        text = error.doc.rstrip()
        ends_early = error.pos >= len(text) - 1 or not text.endswith(("]", "}"))
        what = "it ends too early: was it cut off?" if ends_early else error.msg
        raise DataError(f"{path}:{error.lineno}: not readable JSON: {what}") from error
    except ValueError as error:
        raise DataError(f"{path}: not readable JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        DataError: it is missing, damaged, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: a JSON object is expected, and it holds {type(content).__name__}")
    return content


def write_text(path: Path, text: str) -> None:
    """Writes a text file (UTF-8) atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    with atomic_write(path, "wb", len(content)) as file:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Writes an indented JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Makes renames inside ``folder`` survive a power cut."""
    _sync(folder)


def make_readable(path: Path) -> None:
    """Gives a file the permissions of any new file; some libraries write theirs for the owner alone."""
    path.chmod(0o666 & ~_umask())


def point_symlink(link: Path, target: str) -> None:
    """Makes ``link`` point at ``target``; an existing link is replaced in one step."""
    temporary = link.with_name(f"{_draft_prefix(link)}{secrets.token_hex(4)}{_DRAFT}")
    temporary.symlink_to(target)
    os.replace(temporary, link)


def remove_left_over(folder: Path) -> None:
    """Removes what writers that were killed have left anywhere in ``folder``; those of processes at work stay."""
    for path in folder.rglob(f".*{_DRAFT}"):
        if (draft := _DRAFT_NAME.fullmatch(path.name)) and not _is_at_work(int(draft["process"])):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _draft_prefix(path: Path) -> str:
    return f".{path.name}.{os.getpid()}."


def _is_at_work(process: int) -> bool:
    """Whether another process has this number; one that had ours has ended."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it belongs to another user
    return True


def open_itself(path: Path, mode: str) -> IO[Any]:
    """Opens a file for writing (UTF-8), and not one elsewhere that a link at ``path`` points at.

    Raises:
        OSError: ``path`` is a link, or cannot be written.
    """
    buffering, encoding = (-1, None) if "b" in mode else (1, "utf-8")  # so that a kill loses no complete line
    return open(path, mode, buffering, encoding, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def lock_file(path: Path) -> int:
    """Makes a file if there is none, and locks it for this process until the descriptor is closed, or it ends.

    Raises:
        BlockingIOError: another process holds it.
        OSError: ``path`` is a link, or cannot be written.
    """
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Arrays of an ``.npz`` file by name; its checksums are right, and no code in it was run.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is damaged, another kind of file, lacks an array, or is made to fill the memory.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(part.file_size for part in file.zip.infolist())
            if size > max(_MOST_UNPACKED, _MOST_TIMES * path.stat().st_size):
                raise ValueError(f"its arrays take {size:,} bytes, which no table of this kind does")
            return {name: file[name] for name in names}
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib, struct and NumPy have a dozen for what is damaged
        raise DataError(f"{path}: damaged, or another kind of file ({type(error).__name__}: {error})") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
