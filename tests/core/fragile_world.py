"""The toy world as a plugin of processes that are killed, and that tell what they write.

``FRAGILE=step,rank,target,marker``: before that backward pass this rank kills ``target``, once: itself (``rank``), its
launcher too (``agent``), or only signals the launcher (``stop``). ``FRAGILE_LOG``: a file of ``rank path`` lines.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import toy_world as toy
from torch import Tensor

from vlrun import Entry, TaskConfig, hookimpl

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class FragileTask(toy.ToyTask):
    steps = 0

    @classmethod
    def from_config(cls, config: TaskConfig) -> FragileTask:
        return cls()

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        FragileTask.steps += 1
        at, rank, target, marker = os.environ.get("FRAGILE", ",,,").split(",")
        if at and self.steps == int(at) and os.environ.get("RANK", "0") == rank and not Path(marker).exists():
            Path(marker).touch()
            if target == "stop":
                os.kill(os.getppid(), signal.SIGUSR1)
            else:
                if target == "agent":
                    os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(outputs, targets)


def _log_writes(event: str, arguments: tuple[Any, ...]) -> None:
    changes = event in {"os.mkdir", "os.rename", "os.remove", "os.symlink", "os.truncate"}
    if changes or (event == "open" and arguments[2] & _WRITES):
        path = str(arguments[0])
        if "/runs/" in path:
            line = f"{os.environ.get('RANK', '0')} {path}\n".encode()
            log = os.open(os.environ["FRAGILE_LOG"], os.O_RDWR | os.O_APPEND | os.O_CREAT)
            os.write(log, line)
            os.close(log)


if "FRAGILE_LOG" in os.environ:
    sys.addaudithook(_log_writes)


@hookimpl
def vlrun_backbones() -> list[Entry]:
    return toy.vlrun_backbones()


@hookimpl
def vlrun_datasets() -> list[Entry]:
    return toy.vlrun_datasets()


@hookimpl
def vlrun_tasks() -> list[Entry]:
    factory = "fragile_world:FragileTask.from_config"
    return [Entry(name="match", summary="", config="vlrun:TaskConfig", factory=factory, target="class")]
