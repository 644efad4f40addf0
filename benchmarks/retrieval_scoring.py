"""How fast text-image pairs are scored: the engine of retrieval and hard negatives beside a plain loop.

python benchmarks/retrieval_scoring.py [--backbones rosita lxmert lxmert-s] [--size tiny] [--json]

Networks of base size with random weights, 36 regions, texts of 5 to 25 word pieces (13 on average). The plain loop
takes one image with 32 texts at a time, pads them to the longest text allowed (ROSITA 30, LXMERT 20) and computes
everything anew. The others are measured at two lengths, which a quarter and three quarters of the texts do not exceed.
The rounds of all ways alternate and each keeps its best time, so that other work on the machine slows all alike: the
ratios are what to look at (on a machine that is always busy, with --threads 1 --clock cpu). What the engine computes
once for each text and each image is measured apart: for a test set of 1,000 images with 5,000 texts it is needed 6,000
times, beside 5,000,000 pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from vlrun import Backbone, Encoding, Pair, RegionBatch
from vlrun.blocks.wordpiece import SPECIAL_TOKENS
from vlrun.testing import make_regions
from vlrun_lxmert_s.config import LxmertConfig, LxmertSConfig
from vlrun_lxmert_s.model import Lxmert, LxmertS
from vlrun_retrieval.head import PairMatcher
from vlrun_retrieval.scorer import EncodedTexts, PairScorer
from vlrun_rosita.config import RositaConfig
from vlrun_rosita.model import Rosita

BACKBONES: dict[str, tuple[Any, Any, int]] = {  # configuration, network, longest text allowed in retrieval
    "rosita": (RositaConfig, Rosita, 30),
    "lxmert": (LxmertConfig, Lxmert, 20),
    "lxmert-s": (LxmertSConfig, LxmertS, 20),
}
VOCABULARY_SIZE = 30522
BATCH, REGIONS, WIDTH = 32, 36, 2048
MOST_IMAGES = 32  # in a tile
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
QUANTILES = (1 / 4, 3 / 4)
PLAIN, SORTED, ENGINE, ENGINE_BF16 = (
    "plain loop",
    "texts sorted by length",
    "engine: weights prepared, each side once",
    "the same in bf16",
)
PER_TEXT, PER_IMAGE = "once per text", "once per image"


@dataclass(frozen=True)
class Workload:
    """What one backbone is measured with.

    Attributes:
        all_texts: of all lengths, for the plain loop.
        same_length: ``BATCH`` texts for each of a few lengths.
        image_ids: the images of a tile of the engine.
    """

    all_texts: list[str]
    same_length: list[list[str]]
    image_ids: list[str]


@dataclass(frozen=True)
class Measured:
    """Seconds for each pair by way, seconds that the engine spends once, and how far its scores are from forward's."""

    seconds: dict[str, float]
    per_text: float
    per_image: float
    differences: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--size", choices=["base", "tiny"], default="base")
    parser.add_argument("--pairs", type=int, default=2 * BATCH, help=f"in a tile of the engine, a multiple of {BATCH}")
    parser.add_argument("--seconds", type=float, default=20, help="for each backbone: no round starts later")
    parser.add_argument("--rounds", type=int, default=2, help="for each backbone, at least; the first one warms up too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, all threads together")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.pairs % BATCH or not BATCH <= arguments.pairs <= BATCH * MOST_IMAGES:
        parser.error(f"--pairs: a multiple of {BATCH}, up to {BATCH * MOST_IMAGES}")
    torch.set_num_threads(arguments.threads)

    results = {name: measure(name, arguments) for name in arguments.backbones}
    rows = [
        {
            "backbone": name,
            "way": way,
            "pairs_per_second": 1 / seconds,
            "ratio": measured.seconds[PLAIN] / seconds,
            "largest_difference": measured.differences.get(way),
        }
        for name, measured in results.items()
        for way, seconds in measured.seconds.items()
    ]
    if arguments.json:
        once = {name: {"per_text": each.per_text, "per_image": each.per_image} for name, each in results.items()}
        print(json.dumps({"ways": rows, "seconds_once": once}, indent=2))
        return
    print(f"{'backbone':<9} {'way':<42} {'pairs/s':>9} {'ratio':>7} {'scores differ by':>17}")
    for row in rows:
        difference = "" if row["largest_difference"] is None else f"{row['largest_difference']:.0e}"
        print(
            f"{row['backbone']:<9} {row['way']:<42} {row['pairs_per_second']:>9.1f} {row['ratio']:>6.2f}x "
            f"{difference:>17}"
        )
    for name, measured in results.items():
        print(
            f"{name}: once {1e3 * measured.per_text:.1f} ms for a text, {1e3 * measured.per_image:.1f} ms for an image"
        )


def measure(name: str, arguments: argparse.Namespace) -> Measured:
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    backbone, longest = random_backbone(name, arguments.size)
    backbone.to(device).eval()
    work = workload(longest, arguments.pairs // BATCH)
    engine, engine_bf16 = (
        pair_scorer(backbone, longest, device, autocast)
        for autocast in (nullcontext, lambda: torch.autocast(device.type, torch.bfloat16))
    )
    with ExitStack() as stack:
        for scorer in (engine, engine_bf16):
            stack.enter_context(scorer.at_work())
        ways: dict[str, list[Callable[[], Tensor]]] = {
            PLAIN: [forward_scores(backbone, plain_batch(backbone, work.all_texts, longest).to(device))],
            SORTED: [
                forward_scores(backbone, encoded_batch(backbone, texts, longest).to(device))
                for texts in work.same_length
            ],
            ENGINE: [engine_scores(engine, texts, work.image_ids) for texts in work.same_length],
            ENGINE_BF16: [engine_scores(engine_bf16, texts, work.image_ids) for texts in work.same_length],
        }
        text = engine.encoded(work.same_length[1], work.image_ids[0])
        once: dict[str, list[Callable[[], Tensor]]] = {
            PER_TEXT: [lambda: text_part(engine, text)["states"]],
            PER_IMAGE: [lambda: engine.region_part(work.image_ids)["states"]],
        }
        seconds, results = best_times(name, {**ways, **once}, arguments, device)
    per_item = {way: taken / len(results[way][0]) for way, taken in seconds.items()}
    forward = torch.cat(results[SORTED])
    differences = {
        way: float((torch.cat([scores[:BATCH] for scores in results[way]]) - forward).abs().max())
        for way in (ENGINE, ENGINE_BF16)
    }
    return Measured({way: per_item[way] for way in ways}, per_item[PER_TEXT], per_item[PER_IMAGE], differences)


def best_times(
    name: str, ways: dict[str, list[Callable[[], Tensor]]], options: argparse.Namespace, device: torch.device
) -> tuple[dict[str, float], dict[str, list[Tensor]]]:
    """Seconds of each way, the mean of its steps in their best rounds; and what the steps gave."""
    clock = CLOCKS[options.clock]
    best = {way: [float("inf")] * len(steps) for way, steps in ways.items()}
    results: dict[str, list[Tensor]] = {}
    start, number = time.perf_counter(), 0
    while number < options.rounds or time.perf_counter() - start < options.seconds:
        for way, steps in ways.items():
            results[way] = []
            for index, step in enumerate(steps):
                begin = clock()
                results[way].append(step())
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                best[way][index] = min(best[way][index], clock() - begin)
        number += 1
        print(f"{name}: round {number}, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return {way: sum(taken) / len(taken) for way, taken in best.items()}, results


def random_backbone(name: str, size: str) -> tuple[Backbone, int]:
    config, network, longest = BACKBONES[name]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        words = [f"word{number}" for number in range(VOCABULARY_SIZE - len(SPECIAL_TOKENS))]
        vocabulary.write_text("\n".join([*SPECIAL_TOKENS, *words]) + "\n", encoding="utf-8")
        return network.from_config(config(name=name, size=size, vocabulary=vocabulary)), longest


def workload(longest: int, num_images: int) -> Workload:
    rng = np.random.default_rng(0)

    def text(length: int) -> str:  # each word is one piece; two are [CLS] and [SEP]
        return " ".join(f"word{number}" for number in rng.integers(20000, size=length - 2))

    lengths = rng.normal(13, 4, 5000).round().clip(5, 25).clip(max=longest).astype(int)
    same_length = [[text(int(length)) for _ in range(BATCH)] for length in np.quantile(lengths, QUANTILES)]
    return Workload([text(length) for length in lengths[:BATCH]], same_length, [f"image{n}" for n in range(num_images)])


@cache
def random_regions(num_images: int) -> RegionBatch:
    """The same number of regions in every image, as the published features have."""
    regions = make_regions([f"image{n}" for n in range(num_images)], WIDTH, num_regions=REGIONS + 1)
    return replace(regions, **{name: getattr(regions, name)[:, :REGIONS] for name in ("features", "boxes", "mask")})


def read_regions(image_ids: Sequence[str]) -> RegionBatch:
    rows = [int(image_id.removeprefix("image")) for image_id in image_ids]
    regions = random_regions(MOST_IMAGES)
    arrays = {name: getattr(regions, name)[rows] for name in ("features", "boxes", "mask", "sizes")}
    return RegionBatch(tuple(image_ids), **arrays)


def encoded_batch(backbone: Backbone, texts: list[str], longest: int) -> Encoding:
    """Each text with the first image, padded as in training."""
    regions = read_regions(["image0"] * len(texts))
    return backbone.pair_encoder(longest)([Pair(text, "image0") for text in texts], regions)


def plain_batch(backbone: Backbone, texts: list[str], longest: int) -> Encoding:
    """The same, padded to the longest text allowed."""
    encoding = encoded_batch(backbone, texts, longest)
    more = (0, longest - encoding.token_ids.shape[1])
    names = ["token_ids", "text_mask", *(["position_ids"] if encoding.position_ids is not None else [])]
    return replace(encoding, **{name: pad(getattr(encoding, name), more) for name in names})


def forward_scores(backbone: Backbone, encoding: Encoding) -> Callable[[], Tensor]:
    head = backbone.matching_head()
    return lambda: log_odds(head(backbone(encoding).pooled))


def pair_scorer(
    backbone: Backbone, longest: int, device: torch.device, autocast: Callable[[], AbstractContextManager[Any]]
) -> PairScorer:
    matcher = PairMatcher(backbone.matching_head())
    encode = backbone.pair_encoder(longest)
    return PairScorer(backbone, matcher, log_odds, encode, read_regions, device=device, autocast=autocast)


def engine_scores(engine: PairScorer, texts: list[str], image_ids: list[str]) -> Callable[[], Tensor]:
    """Scores of a tile, whose parts are there already: the first image with all texts, then the second ..."""
    text = text_part(engine, engine.encoded(texts, image_ids[0]))
    images = engine.region_part(image_ids)
    return lambda: engine.all_pairs(text, images).flatten()


def text_part(engine: PairScorer, texts: EncodedTexts) -> Any:
    return engine.text_part(texts, np.arange(len(texts.lengths)))


def log_odds(logits: Tensor) -> Tensor:
    return logits[:, 1] - logits[:, 0]


if __name__ == "__main__":
    main()
