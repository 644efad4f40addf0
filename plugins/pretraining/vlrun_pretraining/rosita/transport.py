"""Optimal transport between words and regions by IPOT (Xie et al. 2019), as ROSITA and UNITER use it.

Shapes: P pairs, L tokens, R regions, H hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SHORTEST = 1e-5  # vectors are divided by no less (rosita/utils/optimal_transport.py, lines 11 to 88; as all of these)
_BETA = 0.5
_ITERATIONS = 50
_EXCLUDED = 1e4


def transport_distances(text: Tensor, regions: Tensor, text_mask: Tensor, region_mask: Tensor) -> Tensor:
    """What it costs to carry the words of each pair to its regions, in float32 in every precision.

    No value is read from the device. Gradients flow through the cost alone, not through the plan.

    Args:
        text: (P, L, H) last hidden states, [CLS] and [SEP] included.
        regions: (P, R, H) last hidden states.
        text_mask: (P, L) bool, True for real tokens.
        region_mask: (P, R) bool, True for real regions.

    Returns:
        (P,) float32.
    """
    with torch.autocast(text.device.type, enabled=False):
        cost = _costs(text.float(), regions.float(), text_mask, region_mask)
        return (cost * _plan(cost.detach(), text_mask, region_mask)).sum(dim=(1, 2))


def transport_term(distances: Tensor, matched: Tensor) -> Tensor:
    """Distances of matched pairs less those of others: a sum, so that processes add up; divide by all pairs.

    Args:
        distances: (P,) of ``transport_distances``.
        matched: (P,) bool.
    """
    return torch.where(matched, distances, -distances).sum()


def _costs(text: Tensor, regions: Tensor, text_mask: Tensor, region_mask: Tensor) -> Tensor:
    """1 - cosine, (P, L, R); 0 where either side is padding."""
    cosines = F.normalize(text, dim=-1, eps=_SHORTEST) @ F.normalize(regions, dim=-1, eps=_SHORTEST).mT
    return (1 - cosines) * (text_mask[:, :, None] & region_mask[:, None, :])


@torch.no_grad()
def _plan(cost: Tensor, text_mask: Tensor, region_mask: Tensor) -> Tensor:
    """How much goes from where to where, (P, L, R); one inner step for each of the outer ones."""
    real = (text_mask[:, :, None] & region_mask[:, None, :]).to(cost.dtype)
    kernel = torch.exp(-cost / _BETA) * real
    words, regions = (mask.sum(dim=1, keepdim=True).to(cost.dtype) for mask in (text_mask, region_mask))  # (P, 1)
    no_word, no_region = (_EXCLUDED * ~mask for mask in (text_mask, region_mask))
    of_words = text_mask / words
    plan = real
    for _ in range(_ITERATIONS):
        step = kernel * plan
        of_regions = 1 / (regions * (of_words[:, None] @ step)[:, 0] + no_region)  # (P, R)
        of_words = 1 / (words * (step @ of_regions[..., None])[..., 0] + no_word)  # (P, L)
        plan = of_words[:, :, None] * step * of_regions[:, None, :]
    return plan.masked_fill(real == 0, 0)  # a pair without regions divides by 0 on the way
