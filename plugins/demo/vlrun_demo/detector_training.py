"""How the weights of the demo's detector were made: ``python -m vlrun_demo.detector_training FILE``.

It learns from pictures of its own, which no dataset has, and from the scenes that they show. Order, places and initial
weights derive from addresses, so one thread of one kind of processor makes the same file again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlrun.blocks.proposals import overlaps
from vlrun.seeds import derive_seed
from vlrun_demo.detector import prepared, save_network
from vlrun_demo.detector_network import DemoNetwork
from vlrun_demo.images import Image
from vlrun_demo.picture import draw
from vlrun_demo.scene import BACKGROUNDS, COLOURS, KINDS, PATTERNS, SIZES, Scene
from vlrun_demo.world import DETECTOR, images

EPOCHS = 3
_PICTURES_PER_STEP = 4
_RATE, _WARMUP_STEPS = 2e-3, 50
_THING, _NOTHING = 0.5, 0.4  # overlaps from which an anchor is a thing's, and below which it is none's
_FOCUS = 2.0
_PROPOSALS, _NEAR = 24, 2  # regions to learn from: what is proposed, and boxes near each thing
_JITTER = 0.08
_LOUDNESS = 0.46
"""Root of the mean square of the features, that of the features of scenes, under which tiny backbones learn at once."""


@dataclass(frozen=True)
class Truth:
    """The things of a picture: (T, 4) boxes in pixels of the input, and (T,) words of each kind."""

    boxes: Tensor
    words: dict[str, Tensor]
    background: Tensor

    @classmethod
    def of(cls, scene: Scene, scale: float) -> Truth:
        """What ``scene`` shows, drawn ``scale`` times as large."""

        def numbers(name: str, values: Sequence[str], first: int = 0) -> Tensor:
            return torch.tensor([first + values.index(getattr(thing, name)) for thing in scene.things])

        return cls(
            torch.tensor([thing.box for thing in scene.things]) * scale,
            {
                "kind": numbers("kind", KINDS, 1),
                "colour": numbers("colour", COLOURS),
                "pattern": numbers("pattern", PATTERNS),
                "size": numbers("size", SIZES),
            },
            torch.tensor(BACKGROUNDS.index(scene.background)),
        )


def train(
    chosen: Sequence[Image], epochs: int = EPOCHS, say: Callable[[str], None] = lambda message: None
) -> DemoNetwork:
    """A network that has seen each of the chosen images ``epochs`` times."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed("demo", "detector"))
        network = DemoNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=1e-4)
    steps = epochs * (len(chosen) // _PICTURES_PER_STEP)
    losses: dict[str, float] = {}
    for step, batch in enumerate(_batches(chosen, epochs)):
        done = step / steps
        optimizer.param_groups[0]["lr"] = _RATE * min(1, (step + 1) / _WARMUP_STEPS) * (1 + cos(pi * done)) / 2
        for image in batch:
            scene = image.scene
            pixels, scale = prepared(draw(scene))
            rng = np.random.Generator(np.random.Philox(derive_seed("demo", "detector", image.number, step)))
            found = losses_of(network, pixels, Truth.of(scene, scale), rng)
            (torch.stack(list(found.values())).sum() / _PICTURES_PER_STEP).backward()
            for name, value in found.items():
                losses[name] = 0.98 * losses.get(name, value.item()) + 0.02 * value.item()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            say(f"{step}/{steps} " + " ".join(f"{name} {value:.3f}" for name, value in losses.items()))
    _set_loudness(network, chosen[:50])
    return network


def _batches(chosen: Sequence[Image], epochs: int) -> Iterator[list[Image]]:
    for epoch in range(epochs):
        order = np.random.Generator(np.random.Philox(derive_seed("demo", "detector", epoch))).permutation(len(chosen))
        for start in range(0, len(chosen) - _PICTURES_PER_STEP + 1, _PICTURES_PER_STEP):
            yield [chosen[index] for index in order[start : start + _PICTURES_PER_STEP]]


def losses_of(network: DemoNetwork, pixels: Tensor, truth: Truth, rng: np.random.Generator) -> dict[str, Tensor]:
    """What one picture teaches."""
    anchors, logits, deltas = network.proposals(pixels)
    size = (pixels.shape[2], pixels.shape[3])
    proposed = network.boxes(anchors, logits.detach(), deltas.detach(), size, _PROPOSALS)
    return {
        **_proposal_losses(logits, deltas, anchors, truth),
        **_region_losses(network, pixels, torch.cat([proposed, _near(truth.boxes, rng)]), truth),
    }


def _proposal_losses(logits: Tensor, deltas: Tensor, anchors: Tensor, truth: Truth) -> dict[str, Tensor]:
    found = overlaps(anchors, truth.boxes, inclusive=False)  # (anchors, T)
    overlap, thing = found.max(dim=1)
    is_thing = overlap >= _THING
    best = found.argmax(dim=0)  # each thing has an anchor at least
    is_thing[best], thing[best] = True, torch.arange(len(best))
    judged = is_thing | (overlap < _NOTHING)
    wanted = is_thing.float()
    surprise = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    focal = (surprise * (1 - torch.exp(-surprise)) ** _FOCUS)[judged].sum() / is_thing.sum()
    targets = deltas_to(anchors[is_thing], truth.boxes[thing[is_thing]])
    return {"object": focal, "box": 4 * F.smooth_l1_loss(deltas[is_thing], targets, beta=0.1)}


def _region_losses(network: DemoNetwork, pixels: Tensor, boxes: Tensor, truth: Truth) -> dict[str, Tensor]:
    overlap, thing = overlaps(boxes, truth.boxes, inclusive=False).max(dim=1)
    is_thing = overlap >= _THING
    vectors = network.vectors(pixels, boxes)
    words = {name: layer(vectors) for name, layer in network.words.items()}
    losses = {
        "kind": F.cross_entropy(words["kind"], truth.words["kind"][thing].where(is_thing, 0)),
        "background": F.cross_entropy(words["background"], truth.background.expand(len(boxes))),
        "refine": 4
        * F.smooth_l1_loss(
            network.refine(vectors)[is_thing], deltas_to(boxes[is_thing], truth.boxes[thing[is_thing]]), beta=0.1
        ),
    }
    for name in ("colour", "pattern", "size"):
        losses[name] = F.cross_entropy(words[name][is_thing], truth.words[name][thing[is_thing]])
    return losses


def _near(boxes: Tensor, rng: np.random.Generator) -> Tensor:
    """Boxes near each thing, which there are from the first step on."""
    several = boxes.repeat(_NEAR, 1)
    sides = (several[:, 2:] - several[:, :2]).repeat(1, 2)
    return several + torch.from_numpy(rng.normal(0, _JITTER, several.shape)).float() * sides


def deltas_to(boxes: Tensor, targets: Tensor) -> Tensor:
    """(N, 4) what ``decode`` needs to make ``targets`` of ``boxes``."""
    sides, wanted = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    shifts = (targets[:, 2:] + targets[:, :2] - boxes[:, 2:] - boxes[:, :2]) / 2 / sides
    return torch.cat([shifts, (wanted / sides).log()], dim=1)


@torch.no_grad()
def _set_loudness(network: DemoNetwork, chosen: Sequence[Image]) -> None:
    squares = []
    for image in chosen:
        pixels, _ = prepared(draw(image.scene))
        boxes = network.boxes(*network.proposals(pixels), (pixels.shape[2], pixels.shape[3]), _PROPOSALS)
        squares.append(network.vectors(pixels, boxes).square().mean())
    network.loudness.fill_(_LOUDNESS / torch.stack(squares).mean().sqrt())


if __name__ == "__main__":
    torch.set_num_threads(1)
    training = [image for image in images(DETECTOR) if image.split == "train"]
    save_network(train(training, say=lambda line: print(line, flush=True)), Path(sys.argv[1]))  # noqa: T201
