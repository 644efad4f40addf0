"""Heads that plugins share."""

from __future__ import annotations

import pytest
import torch

from vlrun import BackboneOutput
from vlrun.blocks.heads import PooledClassifier, init_layers, initial_std


def output(pooled: torch.Tensor) -> BackboneOutput:
    states = torch.zeros(len(pooled), 1, pooled.shape[1])
    mask = torch.ones(len(pooled), 1, dtype=torch.bool)
    return BackboneOutput(states, states, pooled, mask, mask)


def test_a_base_network_starts_as_bert_does_and_a_narrow_one_passes_on_as_much() -> None:
    assert initial_std(768) == 0.02
    for width in (128, 768):
        layer = torch.nn.Linear(width, 400)
        init_layers(layer, width)
        assert not layer.bias.any()
        passed_on = layer(torch.randn(200, width, generator=torch.Generator().manual_seed(0))).std().item()
        assert passed_on == pytest.approx(0.02 * 768**0.5, rel=0.1)


def test_pooled_outputs_of_an_examples_pairs_lie_side_by_side() -> None:
    pooled = torch.randn(6, 8)
    pairs = PooledClassifier(8, 3, images_per_example=2)
    assert pairs(output(pooled)).shape == (3, 3)
    swapped = pairs(output(pooled[[1, 0, 3, 2, 5, 4]]))
    assert not torch.allclose(swapped, pairs(output(pooled)))
