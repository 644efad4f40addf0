"""LXMERT equals the independent implementation in Hugging Face transformers, on random weights that we import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vlrun import Encoding
from vlrun_lxmert_s.checkpoint import translate_hf_lxmert
from vlrun_lxmert_s.model import Lxmert

transformers = pytest.importorskip("transformers")


@pytest.fixture
def theirs() -> Any:
    config = transformers.LxmertConfig(
        vocab_size=20,
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=16,
        l_layers=1,
        x_layers=2,
        r_layers=1,
        max_position_embeddings=12,
        visual_feat_dim=6,
    )
    torch.manual_seed(0)
    model = transformers.LxmertModel(config).eval()
    for parameter in model.parameters():  # biases and norms too, so that every one of them counts
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_states_and_pooled_output_equal_those_of_transformers(
    make_network: Callable[..., Lxmert], theirs: Any, padded: bool
) -> None:
    ours = make_network("lxmert").eval()
    del ours.seq_relationship  # LxmertModel has no heads
    ours.load_state_dict(translate_hf_lxmert(theirs.state_dict()))
    text_mask, region_mask = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    if padded:
        text_mask[1, 3:] = False
        region_mask[0, 2:] = False
    encoding = Encoding(torch.randint(5, 20, (2, 5)), text_mask, torch.rand(2, 3, 6), torch.rand(2, 3, 4), region_mask)

    with torch.inference_mode():
        expected = theirs(
            input_ids=encoding.token_ids,
            attention_mask=text_mask,
            visual_feats=encoding.region_features,
            visual_pos=encoding.boxes,
            visual_attention_mask=region_mask,
        )
        output = ours(encoding)

    torch.testing.assert_close(output.text, expected.language_output, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.regions, expected.vision_output, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.pooled, expected.pooled_output, rtol=0, atol=1e-5)
