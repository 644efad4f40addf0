"""What depends on one side only, computed once: the pooled output is that of ``forward``, for less work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from network_checks import check_pooled_alone, check_recomputation
from torch import Tensor

from vlrun import Encoding
from vlrun_lxmert_s.model import Lxmert

MakeNetwork = Callable[..., Lxmert]

both = pytest.mark.parametrize("name", ["lxmert-s", "lxmert"])


@pytest.fixture
def encoding() -> Encoding:
    """Three pairs, one of them without padding."""
    generator = torch.Generator().manual_seed(0)
    return Encoding(
        token_ids=torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0], [2, 3, 0, 0]]),
        text_mask=torch.arange(4) < torch.tensor([[4], [3], [2]]),
        region_features=torch.rand(3, 3, 6, generator=generator).half(),
        boxes=torch.rand(3, 3, 4, generator=generator),
        region_mask=torch.arange(3) < torch.tensor([[3], [2], [3]]),
        position_ids=torch.tensor([[1, 2, 3, 1], [1, 2, 1, 0], [1, 1, 0, 0]]),
    )


def pooled_from_parts(network: Lxmert, encoding: Encoding) -> Tensor:
    return network.pooled_output(network.text_part(encoding), network.region_part(encoding))


def without(part: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in part.items() if name not in names}


@both
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=str)
def test_the_pooled_output_of_both_parts_is_that_of_forward(
    make_network: MakeNetwork, encoding: Encoding, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    network = make_network(name, num_cross_layers=3).eval().to(dtype)

    pooled = pooled_from_parts(network, encoding)

    assert pooled.dtype is dtype
    torch.testing.assert_close(pooled, network(encoding).pooled, rtol=0, atol=tolerance)


@both
def test_one_cross_modal_layer_is_enough(make_network: MakeNetwork, encoding: Encoding, name: str) -> None:
    network = make_network(name, num_cross_layers=1, num_language_layers=0, num_object_layers=0).eval().double()

    torch.testing.assert_close(pooled_from_parts(network, encoding), network(encoding).pooled, rtol=0, atol=1e-14)


@both
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=str)
@pytest.mark.parametrize("num_cross_layers", [1, 2, 3])
@pytest.mark.parametrize("absent", [(), ("text_mask",), ("region_mask",), ("text_mask", "region_mask")], ids="+".join)
@torch.inference_mode()
def test_prepared_weights_give_the_pooled_output_of_forward(
    make_network: MakeNetwork,
    encoding: Encoding,
    name: str,
    dtype: torch.dtype,
    tolerance: float,
    num_cross_layers: int,
    absent: tuple[str, ...],
) -> None:
    network = make_network(name, num_cross_layers=num_cross_layers).eval().to(dtype)
    unpadded = replace(encoding, **{mask: torch.ones_like(getattr(encoding, mask)) for mask in absent})

    scoring = network.for_scoring(dtype)
    text, regions = scoring.text_part(unpadded), scoring.region_part(unpadded)
    pooled = scoring.pooled_output(without(text, absent), without(regions, absent))

    torch.testing.assert_close(pooled, network(unpadded).pooled, rtol=0, atol=tolerance)


@both
@torch.inference_mode()
def test_prepared_weights_in_half_precision_are_as_near_as_autocast(
    make_network: MakeNetwork, encoding: Encoding, name: str
) -> None:
    network = make_network(name, num_cross_layers=3).eval()
    single = network(encoding).pooled
    scoring = network.for_scoring(torch.bfloat16)

    with torch.autocast("cpu", torch.bfloat16):
        automatic = pooled_from_parts(network, encoding)
        text, regions = scoring.text_part(encoding), scoring.region_part(encoding)
    prepared = scoring.pooled_output(text, regions)

    assert prepared.dtype is torch.float32
    assert 0 < (prepared - single).abs().max() < 2 * (automatic.float() - single).abs().max()


@both
@pytest.mark.parametrize("absent", [("text_mask",), ("region_mask",), ("text_mask", "region_mask")], ids="+".join)
def test_an_absent_mask_means_that_nothing_is_padded(
    make_network: MakeNetwork, encoding: Encoding, name: str, absent: tuple[str, ...]
) -> None:
    network = make_network(name).eval().double()
    unpadded = replace(encoding, **{mask: torch.ones_like(getattr(encoding, mask)) for mask in absent})

    text, regions = network.text_part(unpadded), network.region_part(unpadded)
    pooled = network.pooled_output(without(text, absent), without(regions, absent))

    torch.testing.assert_close(pooled, network(unpadded).pooled, rtol=0, atol=1e-14)
    assert not torch.allclose(pooled, network(encoding).pooled, atol=1e-6)  # the masks do hide something here


@both
def test_without_padding_there_is_no_attention_mask(make_network: MakeNetwork, encoding: Encoding, name: str) -> None:
    network = make_network(name).eval()
    text, regions = network.text_part(encoding), network.region_part(encoding)
    masks = []
    for layer in network.encoder.x_layers:
        layer.visual_attention.att.register_forward_pre_hook(lambda module, inputs: masks.append(inputs[2]))
        layer.lang_self_att.self.register_forward_pre_hook(lambda module, inputs: masks.append(inputs[2]))

    network.pooled_output({"states": text["states"]}, {"states": regions["states"]})

    assert masks
    assert not [mask for mask in masks if mask is not None]


@both
def test_parts_may_be_expanded(make_network: MakeNetwork, encoding: Encoding, name: str) -> None:
    network = make_network(name).eval().double()
    one_image = {key: row[1:2].expand(3, *row.shape[1:]) for key, row in network.region_part(encoding).items()}
    same = {key: getattr(encoding, key)[[1, 1, 1]] for key in ("region_features", "boxes", "region_mask")}

    pooled = network.pooled_output(network.text_part(encoding), one_image)

    torch.testing.assert_close(pooled, network(replace(encoding, **same)).pooled, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("name", "visual"), [("lxmert", [3, 3]), ("lxmert-s", [4, 4, 1, 1])])
def test_the_last_layer_computes_what_is_pooled(
    make_network: MakeNetwork, encoding: Encoding, name: str, visual: list[int]
) -> None:
    network = make_network(name).eval()
    widths: dict[str, list[int]] = {"lang": [], "visn": []}
    for layer in network.encoder.x_layers:
        for stream, seen in widths.items():
            query, wide = getattr(layer, f"{stream}_self_att").self.query, getattr(layer, f"{stream}_inter").dense
            for module in (query, wide):
                module.register_forward_hook(lambda m, inputs, output, seen=seen: seen.append(output.shape[1]))

    pooled_from_parts(network, encoding)

    assert widths == {"lang": [4, 4, 1, 1], "visn": visual}


@both
def test_layers_of_one_stream_run_for_the_parts_alone(make_network: MakeNetwork, encoding: Encoding, name: str) -> None:
    network = make_network(name, num_language_layers=2, num_object_layers=1).eval()
    text, regions = network.text_part(encoding), network.region_part(encoding)
    calls = []
    for module in (*network.encoder.layer, *network.encoder.r_layers, network.embeddings, network.encoder.visn_fc):
        module.register_forward_hook(lambda module, inputs, output: calls.append(module))

    network.pooled_output(text, regions)

    assert calls == []


@both
def test_gradients_are_those_of_forward(make_network: MakeNetwork, encoding: Encoding, name: str) -> None:
    network = make_network(name, dropout=0.0).train().double()
    network(encoding).pooled.square().sum().backward()
    expected = {key: parameter.grad for key, parameter in network.named_parameters()}
    network.zero_grad()

    pooled_from_parts(network, encoding).square().sum().backward()

    found = {key: parameter.grad for key, parameter in network.named_parameters()}
    without_gradient = {key for key, gradient in expected.items() if gradient is None}
    assert {key for key, gradient in found.items() if gradient is None} == without_gradient
    for key in expected.keys() - without_gradient:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-9, atol=1e-12)


@both
def test_parts_work_under_autocast(make_network: MakeNetwork, encoding: Encoding, name: str) -> None:
    network = make_network(name).eval()
    single = network(encoding).pooled

    with torch.autocast("cpu", torch.bfloat16):
        automatic = pooled_from_parts(network, encoding)

    torch.testing.assert_close(automatic.float(), single, rtol=0.1, atol=0.05)


@both
@pytest.mark.parametrize("full", [False, True], ids=["padded", "nothing padded"])
def test_a_head_that_reads_the_pooled_output_alone_gets_the_same_gradients(
    make_network: MakeNetwork, encoding: Encoding, name: str, full: bool
) -> None:
    check_pooled_alone(make_network(name, dropout=0.0).double(), encoding, full=full)


@both
def test_layers_that_are_computed_again_drop_the_same(make_network: MakeNetwork, encoding: Encoding, name: str) -> None:
    check_recomputation(make_network(name, dropout=0.3), encoding)
