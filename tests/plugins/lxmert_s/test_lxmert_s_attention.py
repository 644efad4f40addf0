"""What LXMERT and LXMERT-S attend to: the shares are the softmax of the text over the regions in the last layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vlrun import Encoding
from vlrun.blocks.attention import record_attention
from vlrun_lxmert_s.checkpoint import translate_hf_lxmert
from vlrun_lxmert_s.model import Lxmert


def padded_encoding() -> Encoding:
    text_mask, region_mask = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    text_mask[1, 3:] = False
    region_mask[0, 2:] = False
    return Encoding(torch.randint(5, 20, (2, 5)), text_mask, torch.rand(2, 3, 6), torch.rand(2, 3, 4), region_mask)


@pytest.mark.parametrize("name", ["lxmert", "lxmert-s"])
def test_shares_are_the_softmax_of_the_text_over_the_regions(name: str, make_network: Callable[..., Lxmert]) -> None:
    network = make_network(name).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    encoding = padded_encoding()
    linear: dict[str, list[torch.Tensor]] = {"query": [], "key": []}
    last = network.encoder.x_layers[-1].visual_attention.att
    for part, outputs in linear.items():
        getattr(last, part).register_forward_hook(lambda layer, given, out, outputs=outputs: outputs.append(out))
    with torch.inference_mode():
        with record_attention(encoding) as record:
            recorded = network(encoding)
        query, key = linear["query"][0], linear["key"][0]  # the text looks first, then the regions look back
        plain = network(encoding)
    assert torch.equal(plain.pooled, recorded.pooled)

    extra = key.shape[1] - 3  # the visual [CLS] of LXMERT-S
    assert extra == (name == "lxmert-s")
    seen = torch.nn.functional.pad(encoding.region_mask, (extra, 0), value=True)
    means = torch.zeros(2, 5, 3)
    for head in range(2):
        columns = slice(head * 4, head * 4 + 4)
        powers = (torch.einsum("psd,pkd->psk", query[..., columns], key[..., columns]) / 2.0).exp() * seen[:, None]
        means += (powers / powers.sum(-1, keepdim=True))[..., extra:] / 2
    shares = record.shares()
    assert shares is not None
    torch.testing.assert_close(shares, means / means.sum(-1, keepdim=True))
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 5))
    assert (shares[0, :, 2] == 0).all()


def test_shares_are_the_cross_attention_of_transformers(make_network: Callable[..., Lxmert]) -> None:
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.LxmertConfig(
        vocab_size=20, hidden_size=8, num_attention_heads=2, intermediate_size=16, l_layers=1, x_layers=2, r_layers=1,
        max_position_embeddings=12, visual_feat_dim=6,
    )  # fmt: skip
    theirs = transformers.LxmertModel(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = make_network("lxmert").eval()
    del ours.seq_relationship
    ours.load_state_dict(translate_hf_lxmert(theirs.state_dict()))
    encoding = padded_encoding()
    with torch.inference_mode(), record_attention(encoding) as record:
        ours(encoding)
        expected = theirs(
            input_ids=encoding.token_ids,
            attention_mask=encoding.text_mask,
            visual_feats=encoding.region_features,
            visual_pos=encoding.boxes,
            visual_attention_mask=encoding.region_mask,
            output_attentions=True,
        ).cross_encoder_attentions[-1]
    shares = record.shares()
    assert shares is not None
    torch.testing.assert_close(shares, expected.mean(1), rtol=0, atol=1e-5)
