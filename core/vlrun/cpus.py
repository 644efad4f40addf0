"""How many CPUs this process may use, which in a container or under a scheduler is fewer than the machine has."""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


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
    limits = []
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0":
            base, limit_of = root, _limit
        elif "cpu" in controllers.split(","):
            base, limit_of = root / controllers, _limit_of_version_1
            if not base.is_dir():
                base = root / "cpu"
        else:
            continue
        own = base / group.strip("/")
        folders = [folder for folder in (own, *own.parents) if folder == base or base in folder.parents]
        limits += [limit for folder in folders if (limit := limit_of(folder)) is not None]
    return min(limits, default=None)


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
