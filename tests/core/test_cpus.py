"""How many CPUs a process may use, from control groups as kernels and containers show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlrun import cpus
from vlrun.cpus import available_memory, granted_cpus, usable_cpus


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


@pytest.mark.parametrize(
    ("membership", "files", "granted"),
    [
        ("0::/", {"cpu.max": "250000 100000"}, 2.5),  # in a container
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/job/step", {"job/cpu.max": "400000 100000", "job/step/cpu.max": "max 100000"}, 4.0),  # of the group above
        ("0::/job/step", {"job/cpu.max": "400000 100000", "job/step/cpu.max": "100000 100000"}, 1.0),
        ("0::/../other", {}, None),
        (
            "3:memory:/\n2:cpu,cpuacct:/docker/12",
            {"cpu,cpuacct/docker/12/cpu.cfs_quota_us": "300000", "cpu,cpuacct/docker/12/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"}, None),
        ("1:cpuset:/\n", {"cpu.max": "100000 100000"}, None),
        ("", {}, None),
    ],
)
def test_the_smallest_limit_of_all_groups_counts(
    tmp_path: Path, membership: str, files: dict[str, str], granted: float | None
) -> None:
    assert granted_cpus(write(tmp_path, files), membership) == granted


@pytest.mark.parametrize(("quota", "usable"), [("250000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_a_process_uses_what_it_is_bound_to_and_what_is_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, usable: int
) -> None:
    monkeypatch.setattr(cpus, "_GROUPS", write(tmp_path, {"cpu.max": quota}))
    monkeypatch.setattr(cpus, "_MEMBERSHIP", write(tmp_path, {"mine": "0::/"}) / "mine")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cpus() == usable


def test_where_no_process_is_bound_the_cpus_of_the_machine_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cpus, "_membership", str)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert usable_cpus() == 10


@pytest.mark.parametrize(
    ("membership", "limits", "available"),
    [
        ("0::/", {}, 8000 * 1024),
        ("0::/", {"memory.max": "max"}, 8000 * 1024),
        ("0::/job/step", {"job/memory.max": "5000000", "job/step/memory.max": "max"}, 5_000_000),
        ("3:memory:/docker/1", {"memory/docker/1/memory.limit_in_bytes": "4000000"}, 4_000_000),
    ],
)
def test_memory_is_what_the_system_has_to_give_and_groups_grant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, limits: dict[str, str], available: int
) -> None:
    monkeypatch.setattr(cpus, "_GROUPS", write(tmp_path, limits))
    monkeypatch.setattr(cpus, "_MEMBERSHIP", write(tmp_path, {"mine": membership}) / "mine")
    table = "MemTotal:       9000 kB\nMemFree:         100 kB\nMemAvailable:   8000 kB"
    monkeypatch.setattr(cpus, "_MEMORY", write(tmp_path, {"meminfo": table}) / "meminfo")
    assert available_memory() == available
    monkeypatch.setattr(cpus, "_MEMORY", tmp_path / "nothing")
    assert available_memory() is None
