"""Errors that a user can mend. Each is printed as one message, without traceback, and sets the exit status."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

INTERRUPTED = 130
"""The exit status after Ctrl-C that left nothing to continue from, as shells have it."""


@dataclass(frozen=True)
class RequiredFile:
    """A file or folder that must exist before a run.

    Attributes:
        path: where it has to be.
        purpose: what it is, in a few words.
        remedy: what to download and which command makes it; may have several lines.
    """

    path: Path
    purpose: str
    remedy: str


def first_few(items: Sequence[str], shown: int = 20) -> list[str]:
    """The first of ``items`` and how many more there are: a file wrong on every line must not fill the screen."""
    hidden = len(items) - shown
    return [*items[:shown], *([f"... and {hidden:,} more"] if hidden > 0 else [])]


class RunnerError(Exception):
    """Base of all errors shown without traceback; a bug raises anything else and keeps its traceback."""

    exit_status = 1
    is_shown_elsewhere = False  # another rank prints the same error


_REMEDIES = {
    errno.EACCES: "ask for the permission, or name another place",
    errno.EPERM: "ask for the permission, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: "the disk is full: free some space, or name a place on another disk",
    errno.EDQUOT: "the quota is used up: free some space, or name a place on another disk",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENAMETOOLONG: "give it a shorter name",
}


class NoRoomError(OSError):
    """``filename`` does not fit on its disk, or into a quota; ``strerror`` says what it needs and what there is."""


def no_room(error: Exception, path: Path, needed: int | None = None, written: int | None = None) -> NoRoomError | None:
    """``error`` with the file that was to be written, if the cause is that there is no room; else None.

    Args:
        needed: bytes of the whole file, where they are known.
        written: bytes that there was room for, where they are not.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number not in (errno.ENOSPC, errno.EDQUOT):
        if "No space left on device" not in str(error):  # as safetensors says it
            return None
        number = errno.ENOSPC
    facts = []
    if size := needed or written:
        facts.append(f"{'' if needed else 'more than '}{size / 1e6:,.2f} MB are needed")
    with suppress(OSError):  # the folder may be gone
        facts.append(f"{shutil.disk_usage(path if path.is_dir() else path.parent).free / 1e6:,.2f} MB are free")
    return NoRoomError(number, ": ".join(filter(None, [os.strerror(number), ", ".join(facts)])), str(path))


def system_problem(error: OSError | UnicodeEncodeError) -> str | None:
    """What the system refuses and what to do, on one line; None for an error that nobody but us can have made."""
    if isinstance(error, UnicodeEncodeError):
        if not any("\ud800" <= half <= "\udfff" for half in error.object[error.start : error.end]):
            return None
        around = error.object[max(0, error.start - 40) : error.end + 40]
        return f"{around!r} is not UTF-8, as names and texts have to be; rename the file, or write the text anew"
    if error.errno not in _REMEDIES:
        return None
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror}; {_REMEDIES[error.errno]}"


class UsageError(RunnerError):
    """The command line cannot be understood."""

    exit_status = 2


class _Problems(RunnerError):
    """Carries every problem found, so that a user mends them in one go."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(_Problems):
    """The experiment file or an override is wrong.

    Attributes:
        missing: files that are not there and that the correct parts of the experiment need.
    """

    exit_status = 3
    missing: Sequence[RequiredFile] = ()


class PluginError(_Problems):
    """A plugin is missing, broken, or clashes with another."""

    exit_status = 4


class DataError(_Problems):
    """Files are missing, damaged, or do not fit together."""

    exit_status = 5


class CheckpointError(_Problems):
    """Weights or a checkpoint cannot be used."""

    exit_status = 6


class MachineError(RunnerError):
    """The machine, or what is installed on it, cannot do what is asked."""

    exit_status = 7


class NonFiniteLossError(RunnerError):
    """A loss became infinite or not a number."""

    exit_status = 8


class DistributedError(RunnerError):
    """A rank died, or the ranks do not agree."""

    exit_status = 9


class LostRankError(DistributedError):
    """Another process is gone or does not answer, so nothing can be agreed any more."""


class FailedElsewhereError(RunnerError):
    """Another rank met a bug and shows its traceback; this rank ends, too."""

    is_shown_elsewhere = True


class StoppedOnRequest(RunnerError):
    """A signal asked for a stop and a checkpoint was written; the same command continues."""

    exit_status = 75
