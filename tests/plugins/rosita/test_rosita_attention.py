"""What ROSITA attends to: the recorded shares are the softmax of its last layer, and recording changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vlrun import Encoding
from vlrun.blocks.attention import attend, record_attention
from vlrun.testing import check_backbone
from vlrun_rosita.model import Rosita


def test_shares_are_the_softmax_of_the_last_layer(make_rosita: Callable[..., Rosita]) -> None:
    torch.manual_seed(0)
    rosita = make_rosita(num_regions=3).eval()
    for parameter in rosita.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    encoding = Encoding(
        token_ids=torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]),
        text_mask=torch.tensor([[True] * 4, [True] * 3 + [False]]),
        region_features=10 * torch.randn(2, 3, 6),
        boxes=torch.rand(2, 3, 5),
        region_mask=torch.tensor([[True] * 3, [True, True, False]]),
    )
    linear = {}
    last = rosita.backbone.layers[-1].mhatt
    for name in ("dense_q", "dense_k"):
        getattr(last, name).register_forward_hook(lambda layer, given, out, name=name: linear.update({name: out}))
    with torch.inference_mode():
        plain = rosita(encoding)
        with record_attention(encoding) as record:
            recorded = rosita(encoding)
    assert torch.equal(plain.pooled, recorded.pooled)
    assert torch.equal(plain.regions, recorded.regions)

    shares = record.shares()
    assert shares is not None
    seen = torch.cat([encoding.text_mask, encoding.region_mask], dim=1)
    width = 8 // 2
    means = torch.zeros(2, 4, 3)
    for head in range(2):
        columns = slice(head * width, (head + 1) * width)
        scores = torch.einsum("psd,pkd->psk", linear["dense_q"][..., columns], linear["dense_k"][..., columns]) / 2.0
        powers = scores.exp() * seen[:, None]
        means += (powers / powers.sum(-1, keepdim=True))[:, :4, 4:] / 2
    torch.testing.assert_close(shares, means / means.sum(-1, keepdim=True))
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 4))
    assert (shares[1, :, 2] == 0).all()
    assert shares[0].max() - shares[0].min() > 0.02, "not just uniform"


def test_the_kit_finds_layers_that_show_something_else(
    make_rosita: Callable[..., Rosita], monkeypatch: pytest.MonkeyPatch
) -> None:
    def showing_one_token(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> Tensor:
        attend(query[:, :, :1], key, value, mask, shows_regions=True)
        return attend(query, key, value, mask)

    monkeypatch.setattr("vlrun_rosita.model.attend", showing_one_token)
    with pytest.raises(AssertionError, match="queries that show regions begin with the tokens"):
        check_backbone(make_rosita(), ["a cat", "the dog on the left"], 6, max_text_tokens=12)
