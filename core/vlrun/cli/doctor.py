"""``runner doctor``: versions, hardware, plugins, and what is known not to work."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from vlrun.plugins.manager import create_plugins
from vlrun.reporting.tables import TextTable, print_table

_SMALL_SHARED_MEMORY = 512 * 2**20  # a container's default is 64 MiB; a few workers of a base-size run need more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes --json."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Prints versions, hardware and plugins, then warnings about what may not work."""
    facts, warnings = _facts(), _warnings()
    if arguments.json:
        print(json.dumps({**facts, "warnings": warnings}, indent=2))
        return 0
    rows = [
        (name, ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value))
        for name, value in facts.items()
    ]
    print_table(TextTable((), [*rows, *(("warning", warning) for warning in warnings)]))
    if not warnings:
        print("no known problems")
    return 0


def _facts() -> dict[str, Any]:
    from vlrun.engine.ranks import gpu_names

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "gpus": ", ".join(gpu_names()) or "none",
        "packages": {name: _version(name) for name in _required()},
        "plugins": {record.distribution: f"{record.version} ({record.status})" for record in create_plugins().records},
    }


def _required() -> list[str]:
    """Names of the packages that the core needs on this platform, from its metadata."""
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in requires("vlrun") or []]
    return sorted(each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""}))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _warnings() -> list[str]:
    import torch
    from packaging.requirements import Requirement

    warnings = []
    for line in requires("vlrun") or []:
        requirement = Requirement(line)
        installed = _version(requirement.name)
        if not requirement.marker and installed != "missing" and installed not in requirement.specifier:
            warnings.append(f"{requirement.name} {installed} is installed, vlrun needs {requirement.specifier}")
    warnings += [
        f"plugin {record.label} is {record.status}: {record.reasons[0]}"
        for record in create_plugins().records
        if record.status != "ok"
    ]
    shared_memory = Path("/dev/shm")  # noqa: S108 - where torch's loader workers put their batches
    if shared_memory.is_dir() and shutil.disk_usage(shared_memory).total < _SMALL_SHARED_MEMORY:
        warnings.append(f"{shared_memory} is small; loader workers may need more (docker: --shm-size)")
    if torch.version.cuda and not torch.cuda.is_available():
        warnings.append("this build of torch is for CUDA, but no GPU is usable; check the driver")
    return warnings
