"""The public dropout block: shares, scale, gradient, and where it leaves the work to torch."""

from __future__ import annotations

import pytest
import torch

from vlrun.blocks.attention import attend
from vlrun.blocks.dropout import Dropout, dropout


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_share_of_the_values_is_dropped_and_the_others_are_scaled(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.ones(401, 251, dtype=dtype, requires_grad=True)
    dropped = dropout(values, share)
    kept = dropped != 0
    assert dropped.dtype is dtype
    assert kept.float().mean().item() == pytest.approx(1 - share, abs=5e-3)  # 3 standard deviations
    assert torch.allclose(dropped[kept], torch.tensor(1 / (1 - share), dtype=dtype), rtol=1e-4)
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped)  # of ones
    rows = kept.float().mean(dim=1)
    assert rows.std() < 2 * (share * (1 - share) / 251) ** 0.5  # no row or column has its own share
    assert (kept[:, 1:] == kept[:, :-1]).float().mean().item() == pytest.approx(share**2 + (1 - share) ** 2, abs=7e-3)


def test_the_mask_depends_on_the_seed_alone() -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(torch.ones(7, 11), 0.5)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_nothing_is_dropped_in_evaluation_and_everything_with_a_share_of_one() -> None:
    values = torch.rand(5, 3)
    layer = Dropout(0.5)
    assert layer.eval()(values) is values
    assert dropout(values, 0.0) is values
    assert dropout(values, 1.0).count_nonzero() == 0
    assert not torch.equal(layer.train()(values), values)
    assert dropout(torch.ones(5, 3, device="meta"), 0.5).shape == (5, 3)


def test_attention_with_dropout_is_right_on_average_and_blind_to_padding() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4) for _ in range(3))
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False
    expected = attend(query, key, value, mask)
    repeated = [part.repeat(2000, 1, 1, 1) for part in (query, key, value, mask)]
    mean = attend(*repeated, dropout=0.2).unflatten(0, (2000, 2)).mean(dim=0)
    assert torch.allclose(mean, expected, atol=0.06)
    value[1, :, 3:] = 1e4
    torch.manual_seed(1)
    assert attend(query, key, value, mask, dropout=0.2).abs().max() < 10
