"""The network: ResNet-101 C4 with region proposals, and a head that names regions. Plain PyTorch, for inference.

Names and rows are those of the converted Caffe checkpoint: background first, 2 x A objectness channels of which the
first A are background. Batch normalisation is folded into the convolutions when weights are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlrun import CheckpointError, first_few
from vlrun_detector.operators import RegionPooling

STRIDE = 16
"""Pixels of the input per place of the map."""

BINS = 14
_EPS = 1e-5
_NORM = ("weight", "bias", "running_mean", "running_var")
_HEAD = "roi_heads.box_predictor"
_RPN = "proposal_generator.rpn_head"
_ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"


@dataclass(frozen=True)
class Stage:
    """A row of bottlenecks: how many, width inside, width outside."""

    blocks: int
    inner: int
    outer: int


@dataclass(frozen=True)
class Sizes:
    """All that two networks of this kind can differ in; ``FULL`` is the published one."""

    stem: int
    res2: Stage
    res3: Stage
    res4: Stage
    res5: Stage
    proposal_width: int
    anchors: int
    classes: int
    embedding: int
    attribute_width: int
    attributes: int

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Sizes:
        """Those of a checkpoint in the converted Caffe layout.

        Raises:
            CheckpointError: it is no such checkpoint.
        """

        def stage(prefix: str) -> Stage:
            found = {int(match[1]) for name in state if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))}
            return Stage(
                len(found), state[f"{prefix}.0.conv1.weight"].shape[0], state[f"{prefix}.0.conv3.weight"].shape[0]
            )

        try:
            return cls(
                stem=state["backbone.stem.conv1.weight"].shape[0],
                res2=stage("backbone.res2"),
                res3=stage("backbone.res3"),
                res4=stage("backbone.res4"),
                res5=stage("roi_heads.res5"),
                proposal_width=state[f"{_RPN}.conv.weight"].shape[0],
                anchors=state[_ANCHORS].shape[0],
                classes=state[f"{_HEAD}.cls_score.weight"].shape[0] - 1,
                embedding=state[f"{_HEAD}.cls_embed.weight"].shape[1],
                attribute_width=state[f"{_HEAD}.attr_linear1.weight"].shape[0],
                attributes=state[f"{_HEAD}.attr_linear2.weight"].shape[0] - 1,
            )
        except (KeyError, IndexError) as error:
            raise CheckpointError(f"no bottom-up-attention detector: {error.args[0]} is missing") from error


FULL = Sizes(
    stem=64,
    res2=Stage(3, 64, 256),
    res3=Stage(4, 128, 512),
    res4=Stage(23, 256, 1024),
    res5=Stage(3, 512, 2048),
    proposal_width=512,
    anchors=12,
    classes=1600,
    embedding=256,
    attribute_width=512,
    attributes=400,
)


class NormedConv(nn.Conv2d):
    """A convolution that had a batch normalisation behind it."""


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a way around; the stride lies in the first 1x1, as in Caffe."""

    def __init__(self, width_in: int, stage: Stage, stride: int, dilation: int, has_shortcut: bool) -> None:
        super().__init__()
        self.conv1 = NormedConv(width_in, stage.inner, 1, stride)
        self.conv2 = NormedConv(stage.inner, stage.inner, 3, padding=dilation, dilation=dilation)
        self.conv3 = NormedConv(stage.inner, stage.outer, 1)
        self.shortcut = NormedConv(width_in, stage.outer, 1, stride) if has_shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, outer, H / stride, W / stride)."""
        around = x if self.shortcut is None else self.shortcut(x)
        inside = self.conv2(self.conv1(x).relu_()).relu_()
        return self.conv3(inside).add_(around).relu_()


def _stage(width_in: int, stage: Stage, stride: int, dilation: int = 1) -> nn.Sequential:
    first = Bottleneck(width_in, stage, stride, dilation, has_shortcut=True)
    rest = [Bottleneck(stage.outer, stage, 1, dilation, has_shortcut=False) for _ in range(stage.blocks - 1)]
    return nn.Sequential(first, *rest)


class Network(nn.Module):
    """Maps, proposals' scores and deltas, and what regions are; each a method, for the profiles to combine."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.backbone = nn.ModuleDict(
            {
                "stem": nn.ModuleDict({"conv1": NormedConv(3, sizes.stem, 7, 2, 3)}),
                "res2": _stage(sizes.stem, sizes.res2, 1),
                "res3": _stage(sizes.res2.outer, sizes.res3, 2),
                "res4": _stage(sizes.res3.outer, sizes.res4, 2),
            }
        )
        width, feature = sizes.res4.outer, sizes.res5.outer
        rpn_head = nn.ModuleDict(
            {
                "conv": nn.Conv2d(width, sizes.proposal_width, 3, padding=1),
                "objectness_logits": nn.Conv2d(sizes.proposal_width, 2 * sizes.anchors, 1),
                "anchor_deltas": nn.Conv2d(sizes.proposal_width, 4 * sizes.anchors, 1),
            }
        )
        self.proposal_generator = nn.ModuleDict({"rpn_head": rpn_head})
        predictor = nn.ModuleDict(
            {
                "cls_score": nn.Linear(feature, sizes.classes + 1),
                "bbox_pred": nn.Linear(feature, 4 * (sizes.classes + 1)),
                "cls_embed": nn.Embedding(sizes.classes + 1, sizes.embedding),
                "attr_linear1": nn.Linear(feature + sizes.embedding, sizes.attribute_width),
                "attr_linear2": nn.Linear(sizes.attribute_width, sizes.attributes + 1),
            }
        )
        self.roi_heads = nn.ModuleDict({"res5": _stage(width, sizes.res5, 1, dilation=2), "box_predictor": predictor})
        self.register_buffer("anchors", torch.zeros(sizes.anchors, 4))
        self.pooling = RegionPooling(BINS, STRIDE)

    @classmethod
    def load(cls, state: Mapping[str, Tensor], anchors: Tensor) -> Network:
        """The network of a checkpoint in the converted Caffe layout, with these inclusive anchors; checks strictly."""
        check_state(state)
        with torch.device("meta"):
            network = cls(Sizes.of(state))
        folded = {name: tensor.float() for name, tensor in fold(state).items() if name != _ANCHORS}
        network.load_state_dict({**folded, "anchors": anchors.float()}, assign=True)
        return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def in_half(self) -> Network:
        """Convolutions in bfloat16; what scores and places regions stays in float32."""
        for module in (self.backbone, self.proposal_generator["rpn_head"]["conv"], self.roi_heads["res5"]):
            module.to(torch.bfloat16)
        return self

    def map(self, x: Tensor) -> Tensor:
        """(1, 3, H, W) picture -> (1, C, H / 16, W / 16)."""
        parts = self.backbone
        x = x.to(parts["stem"]["conv1"].weight.dtype, memory_format=torch.channels_last)
        x = parts["stem"]["conv1"](x).relu_()
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return parts["res4"](parts["res3"](parts["res2"](x)))

    def proposals(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map -> (1, 2 A, H, W) logits, background first, and (1, 4 A, H, W) deltas; float32."""
        head = self.proposal_generator["rpn_head"]
        hidden = head["conv"](features).relu_().to(head["anchor_deltas"].weight.dtype)
        return head["objectness_logits"](hidden), head["anchor_deltas"](hidden)

    def regions(self, features: Tensor, boxes: Tensor, at_once: int) -> Tensor:
        """Map and (N, 4) boxes -> (N, D) float32: the vector of each region; ``at_once`` bounds the memory."""
        pooled = self.pooling(features, boxes)
        out = torch.empty(len(boxes), self.sizes.res5.outer, device=pooled.device)
        for start in range(0, len(boxes), at_once):
            some = slice(start, start + at_once)
            out[some] = self.roi_heads["res5"](pooled[some]).mean(dim=(2, 3), dtype=torch.float32)
        return out

    def class_logits(self, vectors: Tensor) -> Tensor:
        """(N, D) -> (N, classes + 1), background first."""
        return self._head("cls_score")(vectors)

    def deltas_of(self, vectors: Tensor, classes: Tensor) -> Tensor:
        """(N, D) and N class numbers, 0 for background -> the (N, 4) deltas of that class alone."""
        predict = self._head("bbox_pred")
        weight, bias = predict.weight.view(-1, 4, vectors.shape[1]), predict.bias.view(-1, 4)
        return torch.einsum("nkd,nd->nk", weight[classes], vectors) + bias[classes]

    def attribute_logits(self, vectors: Tensor, classes: Tensor) -> Tensor:
        """(N, D) and N class numbers, 0 for background -> (N, attributes + 1), no attribute first."""
        joined = torch.cat([vectors, self._head("cls_embed")(classes)], dim=1)
        return self._head("attr_linear2")(self._head("attr_linear1")(joined).relu_())

    def _head(self, name: str) -> Any:
        return self.roi_heads["box_predictor"][name]


def expected_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint in the converted Caffe layout."""
    with torch.device("meta"):
        network = Network(sizes)
    normed = {name for name, module in network.named_modules() if isinstance(module, NormedConv)}
    shapes: dict[str, tuple[int, ...]] = {_ANCHORS: (sizes.anchors, 4)}
    for name, tensor in network.state_dict().items():
        owner, _, kind = name.rpartition(".")
        if owner in normed and kind == "bias":
            shapes.update({f"{owner}.norm.{part}": tuple(tensor.shape) for part in _NORM})
        elif owner:
            shapes[name] = tuple(tensor.shape)
    return shapes


def check_state(state: Mapping[str, Tensor]) -> None:
    """Refuses weights of another network.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or does not belong there.
    """
    wanted = expected_shapes(Sizes.of(state))
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} does not belong there" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if problems:
        raise CheckpointError(first_few(problems))


def fold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Batch normalisation with its running statistics, as scale and bias of the convolution before it."""
    folded = {}
    for name, tensor in state.items():
        owner = name.removesuffix(".weight")
        if f"{owner}.norm.weight" in state:
            gain, bias, mean, variance = (state[f"{owner}.norm.{part}"].double() for part in _NORM)
            gain = gain / (variance + _EPS).sqrt()
            folded[name] = tensor.double() * gain[:, None, None, None]
            folded[f"{owner}.bias"] = bias - mean * gain
        elif ".norm." not in name:
            folded[name] = tensor
    return folded
