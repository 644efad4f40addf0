"""``traces/``: where the time of a few training steps goes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType

import torch
from torch.profiler import ProfilerActivity, schedule, tensorboard_trace_handler

from vlrun.files import write_text

TABLE_NAME = "operators.txt"

# The first steps allocate memory and fill the loader's queue, so they are not typical.
_WAIT_STEPS = 3
_WARMUP_STEPS = 2
_ACTIVE_STEPS = 3
_TABLE_ROWS = 40


class Profile:
    """Records a few steps: a trace that TensorBoard's profiler plugin opens, and ``operators.txt``, a table as text.

    Call ``step`` after every training step. It costs nothing once the steps are recorded.

    Attributes:
        is_done: whether trace and table are written.
    """

    def __init__(self, folder: Path, device: torch.device, total_steps: int | None = None) -> None:
        """``folder`` receives trace and table; with few ``total_steps`` the recording starts earlier."""
        self.folder = folder
        self.table = folder / TABLE_NAME
        self.is_done = False
        available = total_steps if total_steps is not None else _WAIT_STEPS + _WARMUP_STEPS + _ACTIVE_STEPS
        active = max(1, min(_ACTIVE_STEPS, available // 2))
        warmup = max(0, min(_WARMUP_STEPS, available - active))
        wait = max(0, min(_WAIT_STEPS, available - active - warmup))
        on_cuda = device.type == "cuda"
        self._sort_by = "self_cuda_time_total" if on_cuda else "self_cpu_time_total"
        self._profiler = torch.profiler.profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])],
            schedule=schedule(wait=wait, warmup=warmup, active=active, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
            profile_memory=True,
        )

    def __enter__(self) -> Profile:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._profiler.start()
        return self

    def step(self) -> None:
        """Counts a training step; after the last recorded one, trace and table are written."""
        if not self.is_done:
            self._profiler.step()
            if self.is_done:
                self._profiler.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_done:
            return
        if error is None:
            self._profiler.stop()
        else:
            with suppress(Exception):  # the error of the training is the one to show
                self._profiler.stop()

    def _write(self, profiler: torch.profiler.profile) -> None:
        tensorboard_trace_handler(str(self.folder))(profiler)
        table = profiler.key_averages().table(sort_by=self._sort_by, row_limit=_TABLE_ROWS, max_name_column_width=60)
        write_text(self.table, table.lstrip("\n") + "\n")
        self.is_done = True


def profile(folder: Path, device: torch.device, total_steps: int | None = None) -> Profile:
    """Makes a profile: ``with profile(folder, device) as profiler:``, and ``profiler.step()`` after each step."""
    return Profile(folder, device, total_steps)
