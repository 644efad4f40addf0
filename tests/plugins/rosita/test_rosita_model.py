"""What the network promises beyond the golden vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlrun import Encoding
from vlrun.blocks.heads import init_layers, initial_std
from vlrun.blocks.wordpiece import SPECIAL_TOKENS
from vlrun.plugins.manager import create_plugins
from vlrun.testing import check_backbone
from vlrun_rosita.checkpoint import MATCHING_HEAD
from vlrun_rosita.config import RositaConfig
from vlrun_rosita.model import MatchingHead, Rosita

MakeRosita = Callable[..., Rosita]


@pytest.fixture
def encoding() -> Encoding:
    """Two pairs with padding in text and regions."""
    generator = torch.Generator().manual_seed(0)
    return Encoding(
        token_ids=torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]),
        text_mask=torch.tensor([[True] * 4, [True] * 3 + [False]]),
        region_features=torch.rand(2, 3, 6, generator=generator).half(),
        boxes=torch.rand(2, 3, 5, generator=generator),
        region_mask=torch.tensor([[True] * 3, [True, True, False]]),
    )


@pytest.mark.parametrize("num_regions", [3, 6], ids=["cut", "padded"])
def test_the_backbone_keeps_the_promises_of_the_interface(make_rosita: MakeRosita, num_regions: int) -> None:
    check_backbone(make_rosita(num_regions=num_regions), ["a cat", "the dog on the left", ""], 6, max_text_tokens=12)


def test_base_size_has_the_parameters_of_the_paper(tmp_path: Path) -> None:
    tokens = [*SPECIAL_TOKENS, *(f"[unused{n}]" for n in range(30522 - len(SPECIAL_TOKENS)))]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    with torch.device("meta"):
        base = Rosita.from_config(RositaConfig(name="rosita", vocabulary=tmp_path / "vocab.txt"))

    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in base.named_children()}
    assert counts == {
        "text_embeddings": 23_837_184,
        "visual_embeddings": 1_579_776,
        "backbone": 85_054_464,
        "pooler": 590_592,
        "mm_itm_head": 1_538,
    }
    assert len(base.state_dict()) == 5 + 6 + 192 + 2 + 2


def test_padding_changes_nothing(make_rosita: MakeRosita, encoding: Encoding) -> None:
    rosita = make_rosita().eval()
    other = replace(
        encoding,
        token_ids=encoding.token_ids.masked_fill(~encoding.text_mask, 9),
        region_features=encoding.region_features.masked_fill(~encoding.region_mask[..., None], 50.0),
    )

    first, second = rosita(encoding), rosita(other)

    assert torch.equal(first.pooled, second.pooled)
    assert torch.equal(first.text[encoding.text_mask], second.text[encoding.text_mask])
    assert torch.equal(first.regions[encoding.region_mask], second.regions[encoding.region_mask])


def test_the_order_of_regions_does_not_matter(make_rosita: MakeRosita, encoding: Encoding) -> None:
    rosita = make_rosita().eval()
    order = [2, 0, 1]
    shuffled = replace(
        encoding,
        region_features=encoding.region_features[:, order],
        boxes=encoding.boxes[:, order],
        region_mask=encoding.region_mask[:, order],
    )

    torch.testing.assert_close(rosita(shuffled).pooled, rosita(encoding).pooled)
    torch.testing.assert_close(rosita(shuffled).regions, rosita(encoding).regions[:, order])


def test_dropout_acts_in_training_only(make_rosita: MakeRosita, encoding: Encoding) -> None:
    rosita = make_rosita(dropout=0.5)

    assert not torch.equal(rosita.train()(encoding).pooled, rosita(encoding).pooled)
    assert torch.equal(rosita.eval()(encoding).pooled, rosita(encoding).pooled)


def test_half_precision_features_work_in_double_and_under_autocast(make_rosita: MakeRosita, encoding: Encoding) -> None:
    rosita = make_rosita().eval()
    single = rosita(encoding).pooled
    with torch.autocast("cpu", torch.bfloat16):
        automatic = rosita(encoding).pooled

    double = rosita.double()(encoding).pooled

    assert double.dtype is torch.float64
    torch.testing.assert_close(double.float(), single)
    torch.testing.assert_close(automatic.float(), single, rtol=0.1, atol=0.05)


def test_weights_start_as_in_the_paper(make_rosita: MakeRosita) -> None:
    rosita = make_rosita(hidden_size=64, feed_forward_size=256)
    parameters = dict(rosita.named_parameters())
    norms = {name for name in parameters if "layer_norm" in name}
    tables = {name for name in parameters if name.endswith("weight")} - norms

    assert all(not parameters[name].any() for name in parameters if name.endswith("bias"))
    assert all((parameters[name] == 1).all() for name in norms if name.endswith("weight"))
    assert torch.cat([parameters[name].flatten() for name in tables]).std().item() == pytest.approx(
        initial_std(64), rel=0.02
    )


def test_the_matching_head_is_there_before_anybody_asks(make_rosita: MakeRosita, encoding: Encoding) -> None:
    rosita = make_rosita().double()
    before = set(rosita.state_dict())

    head = rosita.matching_head()

    assert head is rosita.matching_head()
    assert head(rosita(encoding).pooled).shape == (2, 2)
    assert set(rosita.state_dict()) == before
    assert {f"{MATCHING_HEAD}.dense.weight", f"{MATCHING_HEAD}.dense.bias"} < before


def test_the_matching_head_takes_no_random_numbers_from_the_layers_that_follow(make_rosita: MakeRosita) -> None:
    """Heads of tasks start as they would after a network without one: with the numbers that it has drawn beside."""
    rosita = make_rosita()

    next_one = MatchingHead(rosita.hidden_size)
    init_layers(next_one, rosita.hidden_size)
    assert torch.equal(next_one.dense.weight, rosita.matching_head().dense.weight)


def test_every_parameter_of_the_trunk_but_the_pooler_learns_from_the_regions(
    make_rosita: MakeRosita, encoding: Encoding
) -> None:
    rosita = make_rosita()

    rosita(encoding).regions.square().sum().backward()

    without = {name for name, parameter in rosita.named_parameters() if parameter.grad is None}
    assert {name.split(".")[0] for name in without} == {"pooler", MATCHING_HEAD}


def test_the_plugin_offers_backbone_and_weight_format() -> None:
    plugins = create_plugins()

    assert plugins.find("backbone", "rosita").load_config() is RositaConfig
    assert plugins.weight_formats()["rosita"].backbone == "rosita"
