"""What the networks promise beyond the golden vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from vlrun import Encoding
from vlrun.blocks.heads import initial_std
from vlrun.blocks.wordpiece import SPECIAL_TOKENS
from vlrun.plugins.manager import create_plugins
from vlrun.testing import check_backbone
from vlrun_lxmert_s.checkpoint import MATCHING_HEAD
from vlrun_lxmert_s.config import LxmertConfig, LxmertSConfig
from vlrun_lxmert_s.model import Lxmert, LxmertS

MakeNetwork = Callable[..., Lxmert]

BERT_VOCABULARY_SIZE = 30522
UNUSED_VISUAL_ROWS = BERT_VOCABULARY_SIZE - 1
CLASSES = {"lxmert-s": LxmertS, "lxmert": Lxmert}
CONFIGS = {"lxmert-s": LxmertSConfig, "lxmert": LxmertConfig}

both = pytest.mark.parametrize("name", CLASSES)


@pytest.fixture
def encoding() -> Encoding:
    """Two pairs with padding in text and regions."""
    generator = torch.Generator().manual_seed(0)
    return Encoding(
        token_ids=torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]),
        text_mask=torch.tensor([[True] * 4, [True] * 3 + [False]]),
        region_features=torch.rand(2, 3, 6, generator=generator).half(),
        boxes=torch.rand(2, 3, 4, generator=generator),
        region_mask=torch.tensor([[True] * 3, [True, True, False]]),
        position_ids=torch.tensor([[1, 2, 3, 1], [1, 2, 1, 0]]),
    )


@both
@pytest.mark.parametrize("num_regions", [3, 6], ids=["cut", "padded"])
def test_the_backbone_keeps_the_promises_of_the_interface(
    make_network: MakeNetwork, name: str, num_regions: int
) -> None:
    network = make_network(name, num_regions=num_regions)

    check_backbone(network, ["a cat", "the dogs, on the left", ""], 6, max_text_tokens=12)


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [("lxmert-s", 171_806_208 - UNUSED_VISUAL_ROWS * 2048, 228), ("lxmert", 207_936_768, 449)],
)
def test_base_size_has_the_parameters_of_the_original(tmp_path: Path, name: str, parameters: int, tensors: int) -> None:
    tokens = [*SPECIAL_TOKENS, *(f"[unused{n}]" for n in range(BERT_VOCABULARY_SIZE - len(SPECIAL_TOKENS)))]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")

    with torch.device("meta"):
        base = CLASSES[name].from_config(CONFIGS[name](name=name, vocabulary=tmp_path / "vocab.txt"))

    trunk = {key: tensor for key, tensor in base.state_dict().items() if not key.startswith(MATCHING_HEAD)}
    assert sum(tensor.numel() for tensor in trunk.values()) == parameters
    assert len(trunk) == tensors


@both
def test_padding_changes_nothing(make_network: MakeNetwork, encoding: Encoding, name: str) -> None:
    network = make_network(name).eval()
    other = replace(
        encoding,
        token_ids=encoding.token_ids.masked_fill(~encoding.text_mask, 9),
        region_features=encoding.region_features.masked_fill(~encoding.region_mask[..., None], 50.0),
    )

    first, second = network(encoding), network(other)

    assert torch.equal(first.pooled, second.pooled)
    assert torch.equal(first.text[encoding.text_mask], second.text[encoding.text_mask])
    assert torch.equal(first.regions[encoding.region_mask], second.regions[encoding.region_mask])


@both
def test_the_order_of_regions_does_not_matter(make_network: MakeNetwork, encoding: Encoding, name: str) -> None:
    network = make_network(name).eval()
    order = [2, 0, 1]
    shuffled = replace(
        encoding,
        region_features=encoding.region_features[:, order],
        boxes=encoding.boxes[:, order],
        region_mask=encoding.region_mask[:, order],
    )

    torch.testing.assert_close(network(shuffled).pooled, network(encoding).pooled)
    torch.testing.assert_close(network(shuffled).regions, network(encoding).regions[:, order])


@both
def test_dropout_acts_in_training_only(make_network: MakeNetwork, encoding: Encoding, name: str) -> None:
    network = make_network(name, dropout=0.5)

    assert not torch.equal(network.train()(encoding).pooled, network(encoding).pooled)
    assert torch.equal(network.eval()(encoding).pooled, network(encoding).pooled)


@both
def test_half_precision_features_work_in_double_and_under_autocast(
    make_network: MakeNetwork, encoding: Encoding, name: str
) -> None:
    network = make_network(name).eval()
    single = network(encoding).pooled
    with torch.autocast("cpu", torch.bfloat16):
        automatic = network(encoding).pooled

    double = network.double()(encoding).pooled

    assert double.dtype is torch.float64
    torch.testing.assert_close(double.float(), single)
    torch.testing.assert_close(automatic.float(), single, rtol=0.1, atol=0.05)


@both
def test_weights_start_as_in_the_paper(make_network: MakeNetwork, name: str) -> None:
    network = make_network(name, hidden_size=64, feed_forward_size=256, region_feature_size=512)
    parameters = {key: p for key, p in network.named_parameters() if not key.startswith(MATCHING_HEAD)}
    norms = {key for key in parameters if "LayerNorm" in key or "layer_norm" in key}
    tables = {key for key in parameters if key.endswith("weight")} - norms

    assert all(not parameters[key].any() for key in parameters if key.endswith("bias"))
    assert all((parameters[key] == 1).all() for key in norms if key.endswith("weight"))
    for key in (*tables, "embeddings.token_type_embeddings.weight"):
        std = parameters[key].std().item()
        assert std == pytest.approx(initial_std(64), rel=0.3), key  # the small tables vary
    assert parameters["embeddings.word_embeddings.weight"][0].any()  # padding row too


@both
def test_the_matching_head_is_there_before_anybody_asks(
    make_network: MakeNetwork, encoding: Encoding, name: str
) -> None:
    network = make_network(name).double()
    before = set(network.state_dict())

    head = network.matching_head()

    assert head is network.matching_head()
    assert head(network(encoding).pooled).shape == (2, 2)
    assert set(network.state_dict()) == before
    assert {"seq_relationship.weight", "seq_relationship.bias"} < before


@both
def test_the_matching_head_takes_no_random_numbers_from_the_layers_that_follow(
    make_network: MakeNetwork, name: str
) -> None:
    """Heads of tasks start as they would after a network without one: with the numbers that it has drawn beside."""
    network = make_network(name)

    assert torch.equal(nn.Linear(network.hidden_size, 2).weight, network.matching_head().weight)


def test_the_matching_head_starts_like_the_authors_retrieval_head(make_network: MakeNetwork) -> None:
    network = make_network("lxmert-s", hidden_size=64, num_heads=4)

    head = network.matching_head()

    limit = 64**-0.5  # PyTorch's own start: uniform in +-1 / sqrt(inputs)
    assert 0.9 * limit < head.weight.abs().max() <= limit
    assert head.bias.any()


def test_regions_of_the_last_layer_learn_when_a_head_uses_them(make_network: MakeNetwork, encoding: Encoding) -> None:
    network = make_network("lxmert")

    network(encoding).regions.square().sum().backward()

    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    last = "encoder.x_layers.1."
    text_stream = tuple(f"{last}lang_{part}" for part in ("self_att", "inter", "output"))
    unused = (*text_stream, "pooler.", MATCHING_HEAD)
    assert without == {name for name, _ in network.named_parameters() if name.startswith(unused)}


def test_everything_in_lxmert_s_learns_from_the_pooled_output(make_network: MakeNetwork, encoding: Encoding) -> None:
    network = make_network("lxmert-s")

    network(encoding).pooled.square().sum().backward()

    without = {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.grad is None}
    assert without == {MATCHING_HEAD}
    assert network.word_embeddings.weight.grad.any()


def test_both_streams_look_at_each_other_as_they_came_in(make_network: MakeNetwork) -> None:
    layer = make_network("lxmert").eval().encoder.x_layers[0]
    text, regions = torch.rand(1, 2, 8), torch.rand(1, 3, 8)
    seen = []
    layer.visual_attention.att.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[:2]))

    layer(text, regions, torch.ones(1, 1, 1, 2, dtype=torch.bool), torch.ones(1, 1, 1, 3, dtype=torch.bool))

    assert [[id(states) for states in call] for call in seen] == [[id(text), id(regions)], [id(regions), id(text)]]


def test_lxmert_counts_tokens_where_nobody_gives_positions(make_network: MakeNetwork, encoding: Encoding) -> None:
    network = make_network("lxmert").eval()
    counted = replace(encoding, position_ids=torch.arange(4).expand(2, -1))

    assert torch.equal(network(replace(encoding, position_ids=None)).pooled, network(counted).pooled)


def test_the_plugin_offers_both_backbones_and_their_weight_formats() -> None:
    plugins = create_plugins()
    formats = plugins.weight_formats()

    assert {name: plugins.find("backbone", name).load_config() for name in CONFIGS} == CONFIGS
    for_backbone = {name: formats[name].backbone for name in formats if formats[name].backbone in CONFIGS}
    assert for_backbone == {
        "lxmert-s": "lxmert-s",
        "lxmert": "lxmert",
        "hf-lxmert": "lxmert",
        "bert-lxmert-s": "lxmert-s",
        "bert-lxmert": "lxmert",
    }
    assert {name for name in for_backbone if formats[name].partial} == {"bert-lxmert-s", "bert-lxmert"}


def test_the_two_poolers_are_multiplied(make_network: MakeNetwork, encoding: Encoding) -> None:
    network = make_network("lxmert-s").eval()
    found = {}
    for name in ("pooler", "pooler_f"):
        network.get_submodule(name).register_forward_hook(lambda m, i, output, name=name: found.update({name: output}))

    output = network(encoding)

    assert isinstance(network.pooler_f, nn.Module)
    assert torch.equal(output.pooled, found["pooler"] * found["pooler_f"])
    assert output.regions.shape == (2, 3, 8)
