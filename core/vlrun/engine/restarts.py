"""Launchers that start the processes of a job again: which run is theirs, and a store without keys of the dead."""

from __future__ import annotations

import json
import os
import secrets
import time
from datetime import timedelta
from typing import Any

from vlrun.errors import LostRankError
from vlrun.foreign.json import parse_json

JOB_VARIABLE = "VLRUN_JOB"
"""Names the job of a batch system, which starts it again under the same name; what it began is continued."""

_JOB, _WELCOME = "vlrun/job", "vlrun/welcome"
_PAUSE_SECONDS = 0.05


def job_name(store: Any = None) -> str | None:
    """What stays the same when the processes of a job are started again; None if nothing would start them.

    Args:
        store: of torch's elastic launcher; it outlives the processes.
    """
    if name := os.environ.get(JOB_VARIABLE):
        return name
    if store is None or "TORCHELASTIC_RUN_ID" not in os.environ:
        return None  # the id itself will not do: torchrun calls each job "none" unless told otherwise
    kept: bytes = store.compare_set(_JOB, "", f"torchrun-{secrets.token_hex(8)}")
    return kept.decode()


def fresh_store(store: Any, rank: int, world_size: int, timeout: timedelta) -> Any:
    """A part of ``store`` in which only the ranks that are starting now have written, or will.

    The elastic launcher keeps one store over all restarts. Torch would find there the addresses of dead processes, and
    wait for them. So the ranks first agree on a new prefix: each says hello with a word that is new, too.

    Raises:
        LostRankError: not all ranks came within ``timeout``.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # documented, but not exported to mypy

    own, deadline = secrets.token_hex(8), time.monotonic() + timeout.total_seconds()
    hellos = [f"vlrun/hello/{other}" for other in range(world_size)]
    store.set(hellos[rank], own)
    while time.monotonic() < deadline:
        if rank == 0:
            words = [store.get(hello).decode() if store.check([hello]) else "" for hello in hellos]
            store.set(_WELCOME, json.dumps(words))
            if all(store.check([f"vlrun/{own}/{word}"]) for word in words[1:]):
                return PrefixStore(f"vlrun/{own}", store)
        elif store.check([_WELCOME]) and own in (words := parse_json(store.get(_WELCOME))):
            store.set(f"vlrun/{words[0]}/{own}", "here")
            return PrefixStore(f"vlrun/{words[0]}", store)
        time.sleep(_PAUSE_SECONDS)
    raise LostRankError(f"not all of {world_size} processes came within {timeout.total_seconds():.0f} s")
