"""How well a training step of ROSITA base uses the machine: beside plain matrix products, beside written-out blocks.

python benchmarks/training_step.py [--batch 8] [--seconds 45] [--json]

A step is forward, backward, clipping and Adam, on random pairs with 36 regions, and its head reads the pooled state
alone. The peak is that of float32 products, also for the step in bfloat16. The rounds of all ways
alternate, with plain matrix products between them, so that other work on the machine slows all alike; the shares and
ratios are what to look at, best on an idle machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from vlrun import BackboneOutput, Encoding
from vlrun.blocks.dropout import Dropout
from vlrun.blocks.wordpiece import SPECIAL_TOKENS
from vlrun.config.train import OptimizerConfig
from vlrun.engine.host_memory import keep_freed_memory
from vlrun.engine.model import TaskModel
from vlrun.engine.optimisation import build_optimizer, clip_gradients, set_learning_rate
from vlrun_rosita.config import RositaConfig
from vlrun_rosita.model import Attention, FeedForward, Rosita

TEXT, TRIMMED, REGIONS = 20, 12, 36
VOCABULARY_SIZE = 30522
PRODUCT = 2048  # side of the square matrices whose product is taken as the peak
ADAM = OptimizerConfig(name="adam", betas=(0.9, 0.98), eps=1e-9)
BASELINE = f"blocks written out, Adam in a loop, text padded to {TEXT}"
NATIVE = f"native blocks, fused Adam, text padded to {TEXT}"
TRIMMED_WAY = f"native blocks, fused Adam, text trimmed to {TRIMMED}"
POOLED_WAY = "the same, the last layer for the pooled state alone"
BF16_WAY = "the same in bf16"


class WrittenOutAttention(Attention):
    def forward(self, hidden: Tensor, key_mask: Tensor) -> Tensor:
        query, key, value = (
            dense(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for dense in (self.dense_q, self.dense_k, self.dense_v)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        scores = scores + (~key_mask).to(scores.dtype) * -10000.0
        weights = nn.functional.dropout(scores.softmax(-1), self.dropout, self.training)
        return self.dense_merge((weights @ value).transpose(1, 2).flatten(-2))


class WrittenOutLayerNorm(nn.LayerNorm):
    def forward(self, hidden: Tensor) -> Tensor:
        mean = hidden.mean(-1, keepdim=True)
        variance = (hidden - mean).pow(2).mean(-1, keepdim=True)
        return self.weight * ((hidden - mean) / torch.sqrt(variance + self.eps)) + self.bias


class WrittenOutFeedForward(FeedForward):
    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.dense0(hidden)
        return self.dense1(inner * 0.5 * (1.0 + torch.erf(inner / math.sqrt(2.0))))


WRITTEN_OUT = {
    Attention: WrittenOutAttention,
    nn.LayerNorm: WrittenOutLayerNorm,
    FeedForward: WrittenOutFeedForward,
    Dropout: nn.Dropout,
}


class PooledHead(nn.Module):
    """Reads the pooled state; ``alone``: and so no other is computed."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.reads_pooled_alone = alone

    def forward(self, output: BackboneOutput) -> Tensor:
        return output.pooled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="pairs per step")
    parser.add_argument("--seconds", type=float, default=45, help="no round starts later, after the first two")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    native = base_model()
    written_out = copy.deepcopy(native)
    for module in written_out.modules():
        module.__class__ = WRITTEN_OUT.get(type(module), type(module))
    difference = largest_difference(native, written_out)
    optimizer = build_optimizer(ADAM, native.named_parameters())
    native_step, pooled_step = (training_step(native, optimizer, alone=alone) for alone in (False, True))
    bf16_step = training_step(native, optimizer, alone=True, bf16=True)
    loop = torch.optim.Adam(written_out.parameters(), betas=ADAM.betas, eps=ADAM.eps, foreach=False)
    written_out_step = training_step(written_out, loop)
    padded, trimmed = random_pairs(arguments.batch, TEXT), random_pairs(arguments.batch, TRIMMED)
    ways: dict[str, Callable[[], None]] = {
        BASELINE: lambda: written_out_step(padded),
        NATIVE: lambda: native_step(padded),
        TRIMMED_WAY: lambda: native_step(trimmed),
        POOLED_WAY: lambda: pooled_step(trimmed),
        BF16_WAY: lambda: bf16_step(trimmed),
    }
    seconds, peak = measure(ways, arguments.seconds)

    operations = {
        way: step_operations(
            arguments.batch, TEXT if way in (BASELINE, NATIVE) else TRIMMED, alone=way in (POOLED_WAY, BF16_WAY)
        )
        for way in ways
    }
    rows = [
        {
            "way": way,
            "examples_per_second": arguments.batch / taken,
            "ratio": seconds[BASELINE] / taken,
            "share_of_matmul_peak": operations[way] / taken / peak,
        }
        for way, taken in seconds.items()
    ]
    if arguments.json:
        print(json.dumps({"matmul_gflops": peak / 1e9, "largest_difference": difference, "ways": rows}, indent=2))
        return
    print(f"{'way':<60} {'examples/s':>10} {'ratio':>7} {'of matmul peak':>15}")
    for row in rows:
        print(
            f"{row['way']:<60} {row['examples_per_second']:>10.2f} {row['ratio']:>6.2f}x "
            f"{row['share_of_matmul_peak']:>14.0%}"
        )
    print(f"matmul peak: {peak / 1e9:.0f} GFLOP/s ({PRODUCT} x {PRODUCT} float32, {arguments.threads} threads)")
    print(f"native and written-out outputs differ by {difference:.0e} at most")


def base_model() -> Rosita:
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        unused = [f"[unused{number}]" for number in range(VOCABULARY_SIZE - len(SPECIAL_TOKENS))]
        vocabulary.write_text("\n".join([*SPECIAL_TOKENS, *unused]) + "\n", encoding="utf-8")
        return Rosita.from_config(RositaConfig(name="rosita", vocabulary=vocabulary))


def random_pairs(num_pairs: int, num_tokens: int) -> Encoding:
    return Encoding(
        token_ids=torch.randint(VOCABULARY_SIZE, (num_pairs, num_tokens)),
        text_mask=torch.arange(num_tokens).expand(num_pairs, -1) < TRIMMED,
        region_features=torch.rand(num_pairs, REGIONS, 2048).half(),
        boxes=torch.rand(num_pairs, REGIONS, 5),
        region_mask=torch.ones(num_pairs, REGIONS, dtype=torch.bool),
        full_texts=num_tokens == TRIMMED,
        full_regions=True,
    )


@torch.no_grad()
def largest_difference(one: Rosita, other: Rosita) -> float:
    pairs = random_pairs(2, TEXT)
    return float((one.eval()(pairs).pooled - other.eval()(pairs).pooled).abs().max())


def training_step(
    backbone: Rosita, optimizer: torch.optim.Optimizer, *, alone: bool = False, bf16: bool = False
) -> Callable[[Encoding], None]:
    set_learning_rate(optimizer, 5e-5)
    model = TaskModel(backbone, {"task": PooledHead(alone)}).train()

    def step(pairs: Encoding) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            pooled = model("task", pairs)
        pooled.float().square().mean().backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()

    return step


def step_operations(num_pairs: int, num_tokens: int, *, alone: bool = False) -> float:
    """Floating-point operations of a step's matrix products: two per weight and position, and twice that backward.

    ``alone``: the last layer makes keys and values of all positions, and the rest of one.
    """
    sizes = RositaConfig(name="rosita").sizes
    hidden, positions = sizes.hidden_size, num_tokens + REGIONS
    layer = positions * (4 * hidden**2 + 2 * hidden * sizes.feed_forward_size) + 2 * positions**2 * hidden
    last = 2 * positions * hidden**2 + layer / positions if alone else layer
    regions = REGIONS * (2048 + 5) * hidden  # their features need no gradient
    return num_pairs * (6.0 * ((sizes.num_layers - 1) * layer + last + hidden**2) + 4.0 * regions)


def measure(ways: dict[str, Callable[[], None]], time_limit: float) -> tuple[dict[str, float], float]:
    """Median seconds of each way, and the median operations per second of plain products between them."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    rates = []
    start, number = time.perf_counter(), 0
    while number < 2 or time.perf_counter() - start < time_limit:
        for way, step in ways.items():
            keep_freed_memory(way != BASELINE)  # as a run on the CPU does
            if way != BASELINE and not number:
                step()
            begin = time.perf_counter()
            step()
            if number:  # the first round warms up
                seconds[way].append(time.perf_counter() - begin)
            rates.append(matmul_rate())
        print(f"round {number}, {time.perf_counter() - start:.0f} s", file=sys.stderr)
        number += 1
    return {way: statistics.median(taken) for way, taken in seconds.items()}, statistics.median(rates)


def matmul_rate(num_products: int = 2) -> float:
    left, right = torch.rand(PRODUCT, PRODUCT), torch.rand(PRODUCT, PRODUCT)
    result = left @ right
    begin = time.perf_counter()
    for _ in range(num_products):
        torch.mm(left, right, out=result)
    return 2.0 * PRODUCT**3 * num_products / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
