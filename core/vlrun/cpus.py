"""How many CPUs and how much memory a process may use, in a container or under a scheduler less than there is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_MEMORY = Path("/proc/meminfo")


def usable_cpus() -> int:
    """CPUs that this process may use: those it is bound to, or what its control group grants if that is less."""
    try:
        bound = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS binds no process
        bound = os.cpu_count() or 1
    granted = granted_cpus(_GROUPS, _membership())
    return bound if granted is None else max(1, min(bound, int(granted)))


def granted_cpus(root: Path, membership: str) -> float | None:
    """The CPU time that control groups grant, in CPUs; None without a limit.

    A limit of any group above counts too. In a container the own group is usually mounted as the root.

    Args:
        root: where control groups are mounted.
        membership: content of ``/proc/self/cgroup``.
    """
    limits = [
        limit
        for version, folder in _groups(root, membership, "cpu")
        if (limit := _limit(folder) if version > 1 else _limit_of_version_1(folder)) is not None
    ]
    return min(limits, default=None)


def available_memory() -> int | None:
    """Bytes that new data may take, what the system only caches counted as free; None where the system does not tell.

    It is no more than the smallest limit of the control groups.
    """
    found = re.search(r"^MemAvailable: *(\d+) kB", _read(_MEMORY), re.MULTILINE)
    if found is None:
        return None
    limits = [
        int(limit)
        for version, folder in _groups(_GROUPS, _membership(), "memory")
        if (limit := _read(folder / ("memory.max" if version > 1 else "memory.limit_in_bytes"))).isdecimal()
    ]
    return min([1024 * int(found[1]), *limits])


def _groups(root: Path, membership: str, controller: str) -> Iterator[tuple[int, Path]]:
    """The control groups of a process that can limit a resource, own and above, each with its version, 1 or 2."""
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0":
            version, base = 2, root
        elif controller in controllers.split(","):
            version, base = 1, root / controllers
            if not base.is_dir():
                base = root / controller
        else:
            continue
        own = base / group.strip("/")
        yield from ((version, folder) for folder in (own, *own.parents) if folder == base or base in folder.parents)


def _limit(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _limit_of_version_1(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _membership() -> str:
    return _read(_MEMBERSHIP)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
