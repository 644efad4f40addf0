"""What training with two processes costs: gradients summed after the backward pass, or while it goes on.

python benchmarks/distributed.py [--processes 2] [--batch 8] [--rounds 5] [--json]

A step is forward, backward, summation, clipping and fused Adam in float32 of ROSITA base with two answer heads, one of
them unused, on random pairs with 36 regions, each process with its share of the batch and of the cores. The rounds of
all ways alternate on one network, so that other work on the machine slows all alike; the ratios are what to look at.
Peak memory is that of one process which knows one way only, with the same numbers of rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from baselines.gradient_sum import sum_gradients
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vlrun import Encoding
from vlrun.blocks.heads import PooledClassifier
from vlrun.blocks.wordpiece import SPECIAL_TOKENS
from vlrun.config.optimisation import AdamConfig
from vlrun.engine.gradients import SharedModel
from vlrun.engine.model import TaskModel
from vlrun.engine.optimisation import clip_gradients, set_learning_rate
from vlrun.engine.optimisers import adam
from vlrun.engine.ranks import Ranks
from vlrun.testing import run_ranks
from vlrun_rosita.config import RositaConfig
from vlrun_rosita.model import Rosita

ANSWERS = 3129
TOKENS, REGIONS, VOCABULARY_SIZE = 12, 36, 30522
ADAM = AdamConfig(betas=(0.9, 0.98), eps=1e-9)
ALONE = "each process for itself (nothing is sent)"
AFTER = "own summation after the backward pass"
SEARCHED = "DistributedDataParallel, find_unused_parameters"
OURS = "DistributedDataParallel as vlrun uses it"
HALF = "the same, gradient_compression: bf16"
WAYS = (ALONE, AFTER, SEARCHED, OURS, HALF)
Step = Callable[[], tuple[float, float]]
"""Takes a step; gives the seconds of forward and backward pass, and of what follows (the rest of the summation too)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="pairs per step, of all processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        def measured(*ways: str) -> Any:
            def body(ranks: Ranks) -> Any:
                return measure(ranks, arguments.batch, arguments.rounds, ways)

            return run_ranks(body, Path(folder), arguments.processes)[0]

        seconds, _ = measured(*WAYS)
        memory = {way: measured(way)[1] for way in WAYS[1:]}
    whole = {way: sum(parts) for way, parts in seconds.items()}
    rows = [
        {
            "way": way,
            "seconds": whole[way],
            "forward_and_backward": seconds[way][0],
            "rest": seconds[way][1],
            "communication": whole[way] - whole[ALONE],
            "speed": whole[AFTER] / whole[way],
            "peak_memory_mib": memory.get(way),
        }
        for way in WAYS
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'way':<50} {'s/step':>7} {'fw+bw':>7} {'rest':>6} {'comm.':>6} {'speed':>7} {'peak MiB':>9}")
    for row in rows:
        print(
            f"{row['way']:<50} {row['seconds']:>7.2f} {row['forward_and_backward']:>7.2f} {row['rest']:>6.2f} "
            f"{row['communication']:>6.2f} {row['speed']:>6.2f}x {row['peak_memory_mib'] or 0:>9.0f}"
        )


def measure(
    ranks: Ranks, batch: int, rounds: int, ways: tuple[str, ...]
) -> tuple[dict[str, tuple[float, float]], float]:
    """Median seconds of both parts of a step for each way, and this process's peak memory in MiB."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks.world_size))
    torch.manual_seed(0)
    backbone = base_model()
    heads = {name: PooledClassifier(backbone.hidden_size, ANSWERS) for name in ("used", "unused")}
    steps = training_steps(TaskModel(backbone, heads), ranks, batch, ways)
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, step in steps.items():
            ranks.barrier()
            parts = step()
            if number:  # the first round warms up
                taken[way].append(parts)
    medians = {
        way: (statistics.median(part for part, _ in parts), statistics.median(part for _, part in parts))
        for way, parts in taken.items()
    }
    return medians, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def training_steps(network: TaskModel, ranks: Ranks, batch: int, ways: tuple[str, ...]) -> dict[str, Step]:
    optimizer = adam(ADAM, [{"params": list(network.parameters()), "lr": 0.0}])
    set_learning_rate(optimizer, 5e-5)
    network.train()
    pairs = random_pairs(batch // ranks.world_size)
    target = torch.zeros(len(pairs.token_ids), dtype=torch.long)

    def loss_of(model: Callable[..., Tensor]) -> Tensor:
        return torch.nn.functional.cross_entropy(model("used", pairs), target, reduction="sum") / batch

    def timed(forward_and_backward: Callable[[], None], summation: Callable[[], None]) -> Step:
        def step() -> tuple[float, float]:
            begin = time.perf_counter()
            forward_and_backward()
            middle = time.perf_counter()
            summation()
            clip_gradients(network.parameters(), 1.0)
            optimizer.step()
            return middle - begin, time.perf_counter() - middle

        return step

    def plain() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(network).backward()

    def parallel(model: SharedModel) -> Step:
        def forward_and_backward() -> None:
            model.clear()
            model.backward(loss_of(model))

        return timed(forward_and_backward, lambda: model.drop_unused(ranks.sum_counts(model.used())))

    def searched() -> Step:
        model = DistributedDataParallel(
            network, find_unused_parameters=True, gradient_as_bucket_view=True, init_sync=False
        )

        def forward_and_backward() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss_of(model).backward()

        return timed(forward_and_backward, lambda: None)

    build: dict[str, Callable[[], Step]] = {
        ALONE: lambda: timed(plain, lambda: None),
        AFTER: lambda: timed(plain, lambda: sum_gradients(network.parameters())),
        SEARCHED: searched,
        OURS: lambda: parallel(SharedModel(network, ranks)),
        HALF: lambda: parallel(SharedModel(network, ranks, "bf16")),
    }
    return {way: build[way]() for way in ways}


def base_model() -> Rosita:
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        unused = [f"[unused{number}]" for number in range(VOCABULARY_SIZE - len(SPECIAL_TOKENS))]
        vocabulary.write_text("\n".join([*SPECIAL_TOKENS, *unused]) + "\n", encoding="utf-8")
        return Rosita.from_config(RositaConfig(name="rosita", vocabulary=vocabulary))


def random_pairs(num_pairs: int) -> Encoding:
    return Encoding(
        token_ids=torch.randint(VOCABULARY_SIZE, (num_pairs, TOKENS)),
        text_mask=torch.ones(num_pairs, TOKENS, dtype=torch.bool),
        region_features=torch.rand(num_pairs, REGIONS, 2048).half(),
        boxes=torch.rand(num_pairs, REGIONS, 5),
        region_mask=torch.ones(num_pairs, REGIONS, dtype=torch.bool),
    )


if __name__ == "__main__":
    main()
