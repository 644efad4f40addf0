"""What heads cost that a step does not use: a joint model with four answer heads beside one with a single head.

python benchmarks/unused_heads.py [--rounds 15] [--json]

A step is forward, backward, clipping and Adam in float32, on random pairs with 36 regions, through one head of 3,129
answers. The rounds of all ways alternate, so that a busy machine slows them alike; the ratios are what to look at. The
last way is the trick that other code bases need under DistributedDataParallel: adding zero times every parameter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vlrun import Encoding
from vlrun.blocks.heads import PooledClassifier
from vlrun.blocks.wordpiece import SPECIAL_TOKENS
from vlrun.config.optimisation import AdamConfig
from vlrun.engine.model import TaskModel
from vlrun.engine.optimisation import clip_gradients, set_learning_rate
from vlrun.engine.optimisers import adam
from vlrun_rosita.config import RositaConfig
from vlrun_rosita.model import Rosita

ANSWERS, PAIRS, TOKENS, REGIONS, WIDTH = 3129, 8, 12, 36, 2048
HIDDEN, LAYERS = 384, 4
ONE, FOUR, ZEROS = "one head", "four heads, three unused", "four heads, plus zero times all parameters"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    pairs = random_pairs()
    ways = {
        ONE: training_step(model(1), pairs),
        FOUR: training_step(model(4), pairs),
        ZEROS: training_step(model(4), pairs, adds_zeros=True),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(arguments.rounds + 2):
        for way, step in ways.items():
            started = time.perf_counter()
            step()
            taken[way].append(time.perf_counter() - started)
    seconds = {way: statistics.median(times[2:]) for way, times in taken.items()}
    rows = [{"way": way, "steps_per_second": 1 / each, "cost": each / seconds[ONE]} for way, each in seconds.items()]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'way':<45} {'steps/s':>8} {'cost':>7}")
    for row in rows:
        print(f"{row['way']:<45} {row['steps_per_second']:>8.2f} {row['cost']:>6.2f}x")


def model(num_heads: int) -> TaskModel:
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join([*SPECIAL_TOKENS, *(f"word{number}" for number in range(5000))]))
        config = RositaConfig(
            name="rosita",
            vocabulary=vocabulary,
            hidden_size=HIDDEN,
            num_layers=LAYERS,
            num_heads=6,
            feed_forward_size=4 * HIDDEN,
        )
        backbone = Rosita.from_config(config)
    return TaskModel(backbone, {f"task{number}": PooledClassifier(HIDDEN, ANSWERS) for number in range(num_heads)})


def random_pairs() -> Encoding:
    return Encoding(
        token_ids=torch.randint(5, 5000, (PAIRS, TOKENS)),
        text_mask=torch.ones(PAIRS, TOKENS, dtype=torch.bool),
        region_features=torch.rand(PAIRS, REGIONS, WIDTH),
        boxes=torch.rand(PAIRS, REGIONS, 5),
        region_mask=torch.ones(PAIRS, REGIONS, dtype=torch.bool),
    )


def training_step(network: TaskModel, pairs: Encoding, adds_zeros: bool = False) -> Callable[[], None]:
    optimizer = adam(AdamConfig(), [{"params": list(network.parameters()), "lr": 0.0}])
    set_learning_rate(optimizer, 1e-4)
    target = torch.zeros(PAIRS, dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = torch.nn.functional.cross_entropy(network("task0", pairs), target)
        if adds_zeros:
            loss = loss + 0.0 * sum(parameter.sum() for parameter in network.parameters())
        loss.backward()
        clip_gradients(list(network.parameters()), 1.0)
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
