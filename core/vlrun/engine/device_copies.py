"""Copies of batches to the device while it computes; features that are there already are gathered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from vlrun.data.residency import encoding_on_device, on_device
from vlrun.interfaces.tensors import Batch, Encoding

_Copied = TypeVar("_Copied", Batch, Encoding)


class DeviceCopies:
    """Copies batches to the device on a stream of its own, so that the device computes meanwhile."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def start(self, batch: Batch) -> Batch:
        """The batch on the device; it must not be used before ``wait``."""
        return self._copied(on_device, batch)

    def start_encoding(self, batch: Batch) -> Encoding:
        """The same of what the network reads alone."""
        return self._copied(encoding_on_device, batch)

    def _copied(self, copy: Callable[[Batch, torch.device], _Copied], batch: Batch) -> _Copied:
        if self._stream is None:
            return copy(batch, self._device)
        with torch.cuda.stream(self._stream):
            return copy(batch, self._device)

    def wait(self, batches: Sequence[Batch | Encoding]) -> None:
        """Makes the device wait for the copies that were started; this process goes on."""
        if self._stream is None:
            return
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        for batch in batches:
            batch.record_stream(computing)
