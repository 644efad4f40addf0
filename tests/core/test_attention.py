"""The public attention block: fused outputs as ever, and a record of who looks at which region."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlrun import Encoding
from vlrun.blocks.attention import AttentionRecord, attend, record_attention

TOKENS, REGIONS, HEADS, SIZE = 4, 3, 2, 5


@pytest.fixture
def encoding() -> Encoding:
    """Two pairs; the second has a padded token and a padded region."""
    text_mask, region_mask = torch.ones(2, TOKENS, dtype=torch.bool), torch.ones(2, REGIONS, dtype=torch.bool)
    text_mask[1, 3] = region_mask[1, 2] = False
    return Encoding(
        torch.zeros(2, TOKENS, dtype=torch.long), text_mask, torch.rand(2, REGIONS, 6), torch.rand(2, REGIONS, 4),
        region_mask,
    )  # fmt: skip


def states(positions: int) -> Tensor:
    return torch.randn(2, HEADS, positions, SIZE)


def joint_mask(encoding: Encoding) -> Tensor:
    return torch.cat([encoding.text_mask, encoding.region_mask], dim=1)[:, None, None]


def test_the_output_is_that_of_the_fused_kernel_to_the_last_bit(encoding: Encoding) -> None:
    query, key, value, mask = states(7), states(7), states(7), joint_mask(encoding)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert torch.equal(attend(query, key, value, mask), expected)
    with record_attention(encoding) as record:
        assert torch.equal(attend(query, key, value, mask, shows_regions=True), expected)
    assert record.shares() is not None


def test_shares_are_the_mean_over_heads_of_the_softmax_cut_to_the_regions(encoding: Encoding) -> None:
    query, key, mask = states(7), states(7), joint_mask(encoding)
    with record_attention(encoding) as record:
        attend(states(7), states(7), states(7), mask, shows_regions=True)  # an earlier layer
        attend(query, key, states(7), mask, shows_regions=True)
        attend(states(7), states(7), states(7), mask)  # does not say that it shows regions
    shares = record.shares()
    assert shares is not None
    assert shares.shape == (2, TOKENS, REGIONS)
    for pair in range(2):
        for token in range(TOKENS):
            heads = []
            for head in range(HEADS):
                scores = torch.stack([query[pair, head, token] @ key[pair, head, seen] for seen in range(7)])
                allowed = mask[pair, 0, 0]
                powers = torch.where(allowed, (scores / SIZE**0.5).exp(), torch.zeros(()))
                heads.append((powers / powers.sum())[TOKENS:])
            mean = torch.stack(heads).mean(dim=0)
            torch.testing.assert_close(shares[pair, token], mean / mean.sum())
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(2, TOKENS))
    assert (shares[1, :, 2] == 0).all()
    assert (shares[0] > 0).all()


def test_half_precision_is_computed_in_full(encoding: Encoding) -> None:
    query, key = states(TOKENS).bfloat16(), states(REGIONS).bfloat16()
    with record_attention(encoding) as record, torch.autocast("cpu", torch.bfloat16):
        attend(query, key, states(REGIONS).bfloat16(), None, shows_regions=True)
        shares = record.shares()
    assert shares is not None
    assert shares.dtype == torch.float32
    expected = (query.float() @ key.float().mT / SIZE**0.5).softmax(-1).mean(1)
    torch.testing.assert_close(shares, expected)


def test_what_is_not_asked_for_is_not_kept(encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(AttentionRecord, "keep", lambda record, *given: kept.append(given))
    query = states(TOKENS)
    attend(query, states(REGIONS), states(REGIONS), None, shows_regions=True)
    with record_attention(encoding) as record:
        other = threading.Thread(
            target=attend, args=(query, states(REGIONS), states(REGIONS), None), kwargs={"shows_regions": True}
        )
        other.start()
        other.join()
        assert record.shares() is None
    attend(query, states(REGIONS), states(REGIONS), None, shows_regions=True)
    assert kept == []
