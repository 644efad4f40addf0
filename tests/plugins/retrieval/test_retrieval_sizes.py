"""How much is scored at once depends on a device and its whole memory, not on what is free. No GPU is needed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vlrun_retrieval.scorer import OnTheWay
from vlrun_retrieval.sizes import PART_BYTES, pairs_at_once, part_bytes

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ROSITA_IMAGE = 36 * 768 * (4 + 3 * 2)  # states in float32, projections in bfloat16


@pytest.mark.parametrize(
    ("gigabytes", "pairs", "images"), [(141, 4096, 33_000), (80, 2048, 19_000), (16, 512, 3_700), (2, 64, 900)]
)
def test_a_gpu_scores_as_many_pairs_as_its_memory_allows(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int, pairs: int, images: int
) -> None:
    memory = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert pairs_at_once(GPU, ROSITA_IMAGE) == pairs
    assert part_bytes(GPU) // ROSITA_IMAGE == pytest.approx(images, rel=0.1)


def test_a_cpu_scores_few_pairs_at_once() -> None:
    assert pairs_at_once(CPU, ROSITA_IMAGE) == 64
    assert part_bytes(CPU) == PART_BYTES


def test_scores_of_a_gpu_are_waited_for_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    happened = []

    class Event:
        def record(self, stream: str) -> None:
            happened.append(f"recorded on {stream}")

        def synchronize(self) -> None:
            happened.append("waited")

    class Scores:
        device = GPU

        def to(self, device: str, non_blocking: bool) -> torch.Tensor:
            happened.append(f"copied to {device}, waiting: {not non_blocking}")
            return torch.ones(2)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    on_the_way = OnTheWay(Scores())  # type: ignore[arg-type]
    assert happened == ["copied to cpu, waiting: False", "recorded on the stream of cuda:0"]
    assert (on_the_way.values() == 1).all()
    assert happened[2:] == ["waited"]
