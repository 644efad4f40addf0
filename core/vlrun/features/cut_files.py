"""A message for what no check can see in time: a mapped file is cut while it is read, and its pages end in SIGBUS."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlrun.errors import DataError

_DEFAULT = 0  # SIG_DFL


@lru_cache(maxsize=1)
def name_cut_files() -> None:
    """From now on SIGBUS ends this process, and those forked from it, with a message and the status of a DataError.

    Python's own handlers would come too late: it calls them between two instructions, and the one that reads the page
    never ends. So the handler is one of the C library. Where somebody else has set one, that stays.
    """
    if not hasattr(signal, "SIGBUS"):
        return
    set_handler = ctypes.CDLL(None).signal
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = set_handler(signal.SIGBUS, ctypes.cast(_handler, ctypes.c_void_p))
    if before != _DEFAULT and before is not None:
        set_handler(signal.SIGBUS, before)


def _leave(_: int) -> None:
    named = ", ".join(sorted(set(_cut_files()))) or "a file"
    problem = (
        f"a read went beyond the end of {named}: it was cut meanwhile, or is damaged (runner features verify). Put it "
        "back as it was; a run continues with --resume"
    )
    os.write(2, f"{DataError.__name__}: {problem}\n".encode("utf-8", "backslashreplace"))
    os._exit(DataError.exit_status)


_handler: Any = ctypes.CFUNCTYPE(None, ctypes.c_int)(_leave)


def _cut_files() -> Iterator[str]:
    """Files that are mapped here, shared with others, beyond their end; on Linux, for other systems do not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    except OSError:
        return
    for line in lines:
        parts = line.split(maxsplit=5)
        if len(parts) < 6 or not parts[1].endswith("s"):
            continue
        first, last = (int(address, 16) for address in parts[0].split("-"))
        try:
            size = os.stat(parts[5]).st_size
        except OSError:
            continue
        if int(parts[2], 16) + last - first >= size + os.sysconf("SC_PAGE_SIZE"):  # more than the rest of a page
            yield parts[5]
