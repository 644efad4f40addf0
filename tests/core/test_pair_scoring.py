"""Linear layers with fixed weights, and attention of the first position, against what they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from vlrun.blocks.pair_scoring import FirstAttention, FixedLinear


@pytest.fixture
def linear_layers() -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(24, 24) for _ in range(3)]


@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("with_gelu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_layers_side_by_side_give_what_each_gives(
    linear_layers: list[nn.Linear],
    monkeypatch: pytest.MonkeyPatch,
    has_onednn: bool,
    with_gelu: bool,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_onednn)
    states = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([layer(states) for layer in linear_layers], dim=-1)

    fixed = FixedLinear(*linear_layers, dtype=dtype, gelu=with_gelu)
    found = fixed(states.to(dtype))

    assert found.dtype is dtype
    tolerance = 0.02 if dtype is torch.bfloat16 else 1e-6
    torch.testing.assert_close(found.float(), gelu(expected) if with_gelu else expected, rtol=0, atol=tolerance)


def test_weights_that_change_later_are_not_followed(linear_layers: list[nn.Linear]) -> None:
    states = torch.ones(1, 24)
    fixed = FixedLinear(*linear_layers, dtype=torch.float32)
    before = fixed(states)
    with torch.no_grad():
        linear_layers[0].weight.zero_()
    assert torch.equal(fixed(states), before)


@pytest.mark.parametrize("mask", [None, torch.tensor([[True] * 6, [True, True, False, True, False, False]])])
def test_the_first_position_attends_as_in_full_attention(linear_layers: list[nn.Linear], mask: Tensor | None) -> None:
    hidden = torch.randn(2, 6, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    key_mask = None if mask is None else mask[:, None, None]
    query, key, value = (layer.double()(hidden).unflatten(-1, (4, 6)).transpose(1, 2) for layer in linear_layers)
    expected = scaled_dot_product_attention(query, key, value, key_mask).transpose(1, 2).flatten(-2)[:, 0]

    found = FirstAttention(*linear_layers, num_heads=4, dtype=torch.float64)(hidden, key_mask)

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
