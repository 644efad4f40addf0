"""The grounding head: padding cannot win, the loss stays finite, and training starts as the paper's does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vlrun import BackboneOutput
from vlrun.blocks.heads import initial_std
from vlrun_rec.head import RegionGroundingHead

MakeOutput = Callable[..., BackboneOutput]
LAST_IS_PADDED = torch.tensor([[True, True, True, False]])


def states(num_regions: int = 4, hidden_size: int = 8) -> torch.Tensor:
    return torch.randn(1, num_regions, hidden_size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_padding_gets_no_probability_in_any_precision(dtype: torch.dtype, make_output: MakeOutput) -> None:
    head = RegionGroundingHead(8).to(dtype)
    scores = head(make_output(states().to(dtype), LAST_IS_PADDED)).scores
    assert scores.isfinite().all()
    assert scores.float().softmax(-1)[0, 3] == 0


def test_padding_competes_where_the_released_code_is_followed(make_output: MakeOutput) -> None:
    head = RegionGroundingHead(8, score_padded_regions=True)
    assert head(make_output(states(), LAST_IS_PADDED)).scores.softmax(-1)[0, 3] > 0


def test_an_image_without_regions_gives_no_nan(make_output: MakeOutput) -> None:
    scores = RegionGroundingHead(8)(make_output(states(), torch.zeros(1, 4, dtype=torch.bool))).scores
    assert scores.log_softmax(-1).isfinite().all()


def test_a_head_without_regression_has_no_layer_for_it(make_output: MakeOutput) -> None:
    head = RegionGroundingHead(8, regress_boxes=False)
    assert head(make_output(states())).deltas is None
    assert not [name for name in head.state_dict() if name.startswith("dense_reg")]


def test_layers_have_the_names_of_the_authors() -> None:
    assert list(RegionGroundingHead(8).state_dict()) == [
        f"{layer}.{kind}" for layer in ("dense", "layer_norm", "dense_rank", "dense_reg") for kind in ("weight", "bias")
    ]


def test_the_head_of_the_base_size_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in RegionGroundingHead(768).parameters()) == 595_973


def test_initial_weights_are_small_and_biases_zero() -> None:
    torch.manual_seed(0)
    head = RegionGroundingHead(256)
    assert head.dense.weight.std().item() == pytest.approx(initial_std(256), rel=0.02)
    assert not any(layer.bias.any() for layer in (head.dense, head.dense_rank, head.dense_reg))
    assert (head.layer_norm.weight == 1).all()
