"""One process writes a run folder: it claims the folder, and others are refused until it lets go or is gone.

``owner.json`` names host, process and since when. The kernel holds its lock, so a claim ends with its process, however
that ends. Locks may not reach other hosts, and some file systems have none; there an owner counts as alive until it has
not touched its file for a minute, which it does every ten seconds.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vlrun.engine.run_folder import now
from vlrun.errors import DataError, DistributedError
from vlrun.foreign.json import parse_json
from vlrun.foreign.printing import say

CLAIM = "owner.json"

_BEAT_SECONDS = 10.0
_STALE_SECONDS = 60.0
_TRIES, _PAUSE_SECONDS = 5, 0.5  # readers lock the file for a moment; ranks outlive their launcher by a second
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

_held: set[int] = set()


@dataclass(frozen=True)
class Owner:
    """Who claims a folder; ``mark`` tells two claims of the same process apart."""

    host: str
    process: int
    since: str
    mark: str

    @property
    def is_running_here(self) -> bool:
        """Whether there is a process of this number on this host."""
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # it belongs to another user
        return True


@contextmanager
def claimed(folder: Path, *, waits: bool = False) -> Iterator[None]:
    """Claims ``folder`` for this process for as long as the context is open.

    Args:
        waits: wait until an owner that was lost, perhaps with its host, counts as gone: its job starts again.

    Raises:
        DataError: another process is at work there, or it cannot be written.
    """
    path = folder / CLAIM
    owner = Owner(socket.gethostname(), os.getpid(), now(), secrets.token_hex(8))
    handle = _acquired(path, _TRIES + (round(_STALE_SECONDS / _PAUSE_SECONDS) if waits else 0))
    stopped = threading.Event()
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(owner), indent=2).encode() + b"\n", 0)
        os.fsync(handle)
        threading.Thread(target=_beat, args=(path, handle, owner, stopped), name="claim", daemon=True).start()
        yield
    finally:
        stopped.set()
        with suppress(OSError):
            if _read(handle) == owner:
                path.unlink()
        _close(handle)


def is_abandoned(folder: Path) -> bool:
    """Whether the process of this host that claimed ``folder`` last was killed before it let go.

    Or before it could claim it: then the folder is empty, and a minute old.
    """
    if not any(folder.iterdir()):
        return time.time() - folder.stat().st_mtime > _STALE_SECONDS
    try:
        content = parse_json((folder / CLAIM).read_bytes())
        owner = Owner(**content)
    except (OSError, ValueError, TypeError):
        return False
    is_ours = owner.process == os.getpid()  # a number that was given again
    return owner.host == socket.gethostname() and (is_ours or not owner.is_running_here)


def refuse_if_claimed(folder: Path) -> None:
    """Refuses a folder that another process is at work in.

    Raises:
        DataError: another process is at work there; names it.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            handle = os.open(folder / CLAIM, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return  # nobody claims it
        try:
            _refuse_if_alive(folder / CLAIM, handle, _try_to_lock(folder / CLAIM, handle, shared=True))
            return
        except DataError:
            if not tries_left:
                raise
        finally:
            os.close(handle)
        time.sleep(_PAUSE_SECONDS)


def _acquired(path: Path, tries: int) -> int:
    """Opens and locks the file of a claim."""
    for tries_left in reversed(range(tries)):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DataError(f"{path}: cannot claim the run folder: {error.strerror}") from error
        _held.add(handle)
        try:
            is_locked = _try_to_lock(path, handle)
            if _is_still_at(path, handle):
                _refuse_if_alive(path, handle, is_locked)
                return handle
        except DataError:
            if not tries_left:
                _close(handle)
                raise
        except BaseException:
            _close(handle)
            raise
        _close(handle)  # its holder has just let go, or is about to
        time.sleep(_PAUSE_SECONDS)
    raise DataError(f"{path}: other processes keep claiming this run folder")


def _try_to_lock(path: Path, handle: int, *, shared: bool = False) -> bool:
    """Locks the file for this process; False if the file system has no locks.

    Raises:
        DataError: another process holds it.
    """
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise _refusal(path, _read(handle)) from error
    except OSError as error:
        if error.errno in _NO_LOCKS_HERE:
            return False
        raise DataError(f"{path}: cannot claim the run folder: {error.strerror}") from error
    return True


def _refuse_if_alive(path: Path, handle: int, is_locked: bool) -> None:
    """Decides, where the lock does not, whether the owner that the file names is still at work."""
    owner = _read(handle)
    if owner is None:
        return
    is_here = owner.host == socket.gethostname()
    if is_here and (is_locked or not owner.is_running_here):
        return
    age = _seconds_since_beat(path.parent, handle)
    if age < _STALE_SECONDS:
        wait = f"; if it is gone, the folder is free in {_STALE_SECONDS - age:.0f} s" if not is_here else ""
        raise _refusal(path, owner, wait)


def _refusal(path: Path, owner: Owner | None, more: str = "") -> DataError:
    who = "another process" if owner is None else f"process {owner.process} on {owner.host}, since {owner.since},"
    return DataError(f"{path.parent}: {who} is at work in this run folder{more}. Wait until it has ended, or stop it")


def _seconds_since_beat(folder: Path, handle: int) -> float:
    """Seconds since the owner last touched its file, by the file system's clock: those of hosts may differ."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            clock = os.fstat(file.fileno()).st_mtime
    except OSError:
        clock = time.time()
    return clock - os.fstat(handle).st_mtime


def _beat(path: Path, handle: int, owner: Owner, stopped: threading.Event) -> None:
    while not stopped.wait(_BEAT_SECONDS):
        try:
            is_ours = _read(handle) == owner and _is_still_at(path, handle)
            os.utime(handle)
        except OSError:
            continue  # the file system is away for a moment
        if not is_ours and not stopped.is_set():
            say(
                f"{path.parent}: another process has taken over this run folder, because this one did not touch it for "
                "more than a minute (was it frozen?); this one ends here",
                to=sys.stderr,
                flush=True,
            )
            os._exit(DistributedError.exit_status)


def _read(handle: int) -> Owner | None:
    try:
        return Owner(**parse_json(os.pread(handle, 4096, 0)))
    except (OSError, ValueError, TypeError):
        return None  # just made, or damaged


def _is_still_at(path: Path, handle: int) -> bool:
    """Whether ``path`` still is this file, and not a newer one."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False


def _close(handle: int) -> None:
    _held.discard(handle)
    os.close(handle)


def _let_go_in_child() -> None:
    """Closes the locked files in a forked child: a loader worker would keep the lock of a killed parent."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
