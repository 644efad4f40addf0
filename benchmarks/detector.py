"""How fast a photograph becomes region features: the detector against a plain translation of the original, in one run.

python benchmarks/detector.py [--rounds 2] [--threads N] [--device cpu] [--json]

The network has its published size and random weights, the picture 640 x 480 pixels, from file to regions. The plain
translation is the original step by step: batch normalisation on its own, pictures in NCHW, a loop over boxes to pool
and over classes to suppress, boxes of all classes and attributes of all proposals. The rounds of the ways alternate, so
that a busy machine slows them alike; the ratios are what to look at. "Convolutions" is the share of the time that our
convolutions take themselves: all else together can gain no more than the rest. "Deviation" is that of the features of
the same boxes, relative to their size.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vlrun.blocks.proposals import clip, decode, grid, overlaps
from vlrun_detector.anchors import caffe_anchors
from vlrun_detector.caffe import CaffeProfile
from vlrun_detector.detector import BottomUp
from vlrun_detector.network import BINS, FULL, STRIDE, Network, expected_shapes
from vlrun_detector.weights import ANCHORS, HEAD

OURS, HALF, PLAIN = "ours", "ours, bfloat16", "plain translation"
HEIGHT, WIDTH = 480, 640


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="each takes a minute or two on two cores")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        rows = measure(Path(folder), arguments.rounds, arguments.device)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'way':<20} {'images/s':>9} {'ratio':>7} {'convolutions':>13} {'deviation':>10}")
    for row in rows:
        share = "" if row["convolutions"] is None else f"{row['convolutions']:.0%}"
        deviation = "" if row["deviation"] is None else f"{row['deviation']:.2e}"
        print(f"{row['way']:<20} {row['images_per_second']:>9.4f} {row['ratio']:>6.2f}x {share:>13} {deviation:>10}")


def measure(folder: Path, rounds: int, device: str) -> list[dict[str, object]]:
    picture = folder / "picture.png"
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(picture)
    state = random_state()
    profile = CaffeProfile()
    whole = BottomUp(Network.load(state, state[ANCHORS]), profile, device=device)
    half = BottomUp(Network.load(state, state[ANCHORS]).in_half(), profile, device=device)
    plain = PlainTranslation({name: tensor.to(device) for name, tensor in state.items()}, profile, device)
    ways: dict[str, Callable[[], object]] = {
        OURS: lambda: whole.detect("picture", whole.read(picture)),
        HALF: lambda: half.detect("picture", half.read(picture)),
        PLAIN: lambda: plain(picture),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    shares: dict[str, list[float]] = {way: [] for way in ways}
    networks = {OURS: whole.network, HALF: half.network}
    for _ in range(rounds):
        for way, run in ways.items():
            with convolution_clock(networks.get(way), device) as spent:
                start = now(device)
                run()
                seconds[way].append(now(device) - start)
            shares[way].append(sum(spent) / seconds[way][-1])
    exact, boxes = features_of_boxes(whole, picture)
    deviations = {OURS: None, HALF: relative(features_of_boxes(half, picture, boxes)[0], exact), PLAIN: None}
    slowest = statistics.median(seconds[PLAIN])
    return [
        {
            "way": way,
            "images_per_second": 1 / statistics.median(taken),
            "ratio": slowest / statistics.median(taken),
            "convolutions": statistics.median(shares[way]) if way in networks else None,
            "deviation": deviations[way],
        }
        for way, taken in seconds.items()
    ]


def features_of_boxes(detector: BottomUp, picture: Path, boxes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The features of some proposals, the detector's own unless they are given."""
    prepared, _ = detector.read(picture)
    network = detector.network
    features = network.map(prepared.pixels.to(network.anchors.device))
    if boxes is None:
        boxes = detector.profile.propose(*network.proposals(features), network.anchors, prepared)[0][:32]
    return network.regions(features, boxes, 32), boxes


def relative(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).mean())


def random_state() -> dict[str, Tensor]:
    """Weights that keep activations near one, and anchors where they are, so that there are 300 proposals."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in expected_shapes(FULL).items():
        if name == ANCHORS:
            state[name] = caffe_anchors()
        elif name.endswith(("running_var", "norm.weight")):
            state[name] = torch.full(shape, 0.2 if name.endswith("conv3.norm.weight") else 1.0)
        elif len(shape) == 1:
            state[name] = torch.zeros(shape)
        else:
            size = math.sqrt(2 / math.prod(shape[1:])) * (1e-3 if "anchor_deltas" in name else 1)
            state[name] = torch.randn(shape, generator=generator) * size
    state["backbone.stem.conv1.weight"] /= 64  # pixels are up to 150, not about one
    return state


def now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def convolution_clock(network: nn.Module | None, device: str) -> Iterator[list[float]]:
    """Collects the seconds that each convolution of ``network`` takes."""
    spent: list[float] = []
    begun: list[float] = []
    convolutions = [] if network is None else [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    hooks = [part.register_forward_pre_hook(lambda *_: begun.append(now(device))) for part in convolutions]
    hooks += [part.register_forward_hook(lambda *_: spent.append(now(device) - begun.pop())) for part in convolutions]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


class PlainTranslation:
    """The caffe pipeline as one writes it down."""

    def __init__(self, state: Mapping[str, Tensor], profile: CaffeProfile, device: str) -> None:
        self.state, self.profile, self.device = state, profile, device

    def __call__(self, picture: Path) -> list[Tensor]:
        profile = self.profile
        prepared = profile.prepare(torch.from_numpy(np.array(Image.open(picture))))
        x = F.relu(self.conv(prepared.pixels.to(self.device), "backbone.stem.conv1", 2, 3))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for name, stage, stride in (("res2", FULL.res2, 1), ("res3", FULL.res3, 2), ("res4", FULL.res4, 2)):
            for block in range(stage.blocks):
                x = self.block(x, f"backbone.{name}.{block}", stride if block == 0 else 1, 1)
        boxes = self.proposals(x, prepared.height, prepared.width, prepared.scale_y)
        vectors = []
        for some in boxes.split(64):
            pooled = torch.stack([self.pool(x[0], box) for box in some])
            for block in range(FULL.res5.blocks):
                pooled = self.block(pooled, f"roi_heads.res5.{block}", 1, 2)
            vectors.append(pooled.mean(dim=(2, 3)))
        features = torch.cat(vectors)
        logits = self.linear(features, "cls_score")
        self.linear(features, "bbox_pred")
        joined = torch.cat([features, self.state[f"{HEAD}.cls_embed.weight"][logits.argmax(dim=1)]], dim=1)
        attributes = self.linear(F.relu(self.linear(joined, "attr_linear1")), "attr_linear2").softmax(dim=1)
        keep = self.kept(boxes / prepared.scale_y, logits.softmax(dim=1))
        return [features[keep], boxes[keep] / prepared.scale_y, attributes[keep]]

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
        x = F.conv2d(x, self.state[f"{name}.weight"], None, stride, padding, dilation)
        mean, variance, gain, bias = (
            self.state[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, gain, bias)

    def block(self, x: Tensor, name: str, stride: int, dilation: int) -> Tensor:
        inside = F.relu(self.conv(x, f"{name}.conv1", stride))
        inside = F.relu(self.conv(inside, f"{name}.conv2", 1, dilation, dilation))
        inside = self.conv(inside, f"{name}.conv3")
        around = self.conv(x, f"{name}.shortcut", stride) if f"{name}.shortcut.weight" in self.state else x
        return F.relu(inside + around)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{HEAD}.{name}.weight"], self.state[f"{HEAD}.{name}.bias"])

    def proposals(self, x: Tensor, height: int, width: int, scale: float) -> Tensor:
        head = "proposal_generator.rpn_head"

        def layer(x: Tensor, name: str, padding: int) -> Tensor:
            return F.conv2d(x, self.state[f"{head}.{name}.weight"], self.state[f"{head}.{name}.bias"], padding=padding)

        hidden = F.relu(layer(x, "conv", 1))
        logits, deltas = layer(hidden, "objectness_logits", 0), layer(hidden, "anchor_deltas", 0)
        scores = logits.view(2, -1, *logits.shape[2:]).softmax(dim=0)[1].permute(1, 2, 0).flatten()
        boxes = grid(self.state[ANCHORS], *logits.shape[2:], STRIDE)
        boxes = decode(boxes, deltas[0].permute(1, 2, 0).reshape(-1, 4), inclusive=True)
        boxes = clip(boxes, height, width, inclusive=True)
        large = (boxes[:, 2:] - boxes[:, :2] + 1 >= 16 * scale).all(dim=1)
        boxes, scores = boxes[large], scores[large]
        first = scores.argsort(descending=True)[: self.profile.candidates]
        boxes = boxes[first]
        return boxes[one_by_one(boxes, scores[first], self.profile.proposal_overlap)[: self.profile.proposals]]

    def pool(self, features: Tensor, box: Tensor) -> Tensor:
        left, top, right, bottom = (math.floor(value / STRIDE + 0.5) for value in box.tolist())
        inside = features[:, top : max(bottom, top) + 1, left : max(right, left) + 1]
        return F.adaptive_max_pool2d(inside, BINS)

    def kept(self, boxes: Tensor, probabilities: Tensor) -> Tensor:
        best = torch.zeros(len(boxes), device=boxes.device)
        for number in range(1, probabilities.shape[1]):
            column = probabilities[:, number]
            keep = one_by_one(boxes, column, self.profile.class_overlap)
            best[keep] = torch.maximum(best[keep], column[keep])
        return best.argsort(descending=True)[: self.profile.least]


def one_by_one(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Suppression as it is usually written: the best stays, the rest is compared with it, and so on."""
    order = scores.argsort(descending=True)
    kept = []
    while len(order):
        kept.append(order[0])
        rest = order[1:]
        order = rest[overlaps(boxes[order[:1]], boxes[rest], inclusive=True)[0] < threshold]
    return torch.stack(kept)


if __name__ == "__main__":
    main()
