"""The layers that REC puts on a backbone's region states."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vlrun import BackboneOutput
from vlrun.blocks.heads import init_layers


class GroundingLogits(NamedTuple):
    """Raw outputs for P pairs with R regions.

    Attributes:
        scores: (P, R), before softmax; the referent should have the highest.
        deltas: (P, R, 4) box deltas divided by their stds, or None if boxes are not refined.
    """

    scores: Tensor
    deltas: Tensor | None


class RegionGroundingHead(nn.Module):
    """Scores each region as the referent of the expression and refines its box.

    Layers are named as in ROSITA's ``mm_refs_head``, so the authors' weights load one to one.
    Shapes: P pairs, R regions, H hidden size.
    """

    def __init__(self, hidden_size: int, *, regress_boxes: bool = True, score_padded_regions: bool = False) -> None:
        super().__init__()
        self.score_padded_regions = score_padded_regions
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=1e-12)
        self.dense_rank = nn.Linear(hidden_size, 1)
        self.dense_reg = nn.Linear(hidden_size, 4) if regress_boxes else None
        init_layers(self, hidden_size)

    def forward(self, output: BackboneOutput) -> GroundingLogits:
        """Region states (P, R, H) -> scores (P, R) and, where boxes are refined, deltas (P, R, 4)."""
        hidden = self.layer_norm(nn.functional.gelu(self.dense(output.regions)))  # (P, R, H)
        scores = self.dense_rank(hidden).squeeze(-1)  # (P, R)
        if not self.score_padded_regions:
            # Not -inf: the KL loss multiplies padding by a zero target, and 0 * inf is nan.
            scores = scores.masked_fill(~output.region_mask, torch.finfo(scores.dtype).min)
        deltas = None if self.dense_reg is None else self.dense_reg(hidden)  # (P, R, 4)
        return GroundingLogits(scores, deltas)
