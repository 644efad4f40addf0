"""What depends on one side only, computed once: the pooled output is that of ``forward``, for less work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from network_checks import check_pooled_alone, check_recomputation
from torch import Tensor

from vlrun import Encoding
from vlrun.testing import check_backbone
from vlrun_rosita.model import Rosita

MakeRosita = Callable[..., Rosita]


@pytest.fixture
def encoding() -> Encoding:
    """Three pairs, one of them without padding."""
    generator = torch.Generator().manual_seed(0)
    return Encoding(
        token_ids=torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0], [2, 3, 0, 0]]),
        text_mask=torch.arange(4) < torch.tensor([[4], [3], [2]]),
        region_features=torch.rand(3, 3, 6, generator=generator).half(),
        boxes=torch.rand(3, 3, 5, generator=generator),
        region_mask=torch.arange(3) < torch.tensor([[3], [2], [3]]),
    )


def pooled_from_parts(rosita: Rosita, encoding: Encoding, *absent: str) -> Tensor:
    text, regions = rosita.text_part(encoding), rosita.region_part(encoding)
    return rosita.pooled_output(without(text, absent), without(regions, absent))


def without(part: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in part.items() if name not in names}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=str)
def test_the_pooled_output_of_both_parts_is_that_of_forward(
    make_rosita: MakeRosita, encoding: Encoding, dtype: torch.dtype, tolerance: float
) -> None:
    rosita = make_rosita(num_layers=3).eval().to(dtype)

    pooled = pooled_from_parts(rosita, encoding)

    assert pooled.dtype is dtype
    torch.testing.assert_close(pooled, rosita(encoding).pooled, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=str)
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("absent", [(), ("text_mask",), ("region_mask",), ("text_mask", "region_mask")], ids="+".join)
@torch.inference_mode()
def test_prepared_weights_give_the_pooled_output_of_forward(
    make_rosita: MakeRosita,
    encoding: Encoding,
    dtype: torch.dtype,
    tolerance: float,
    num_layers: int,
    absent: tuple[str, ...],
) -> None:
    rosita = make_rosita(num_layers=num_layers).eval().to(dtype)
    unpadded = replace(encoding, **{name: torch.ones_like(getattr(encoding, name)) for name in absent})

    scoring = rosita.for_scoring(dtype)
    text, regions = scoring.text_part(unpadded), scoring.region_part(unpadded)
    pooled = scoring.pooled_output(without(text, absent), without(regions, absent))

    torch.testing.assert_close(pooled, rosita(unpadded).pooled, rtol=0, atol=tolerance)


@torch.inference_mode()
def test_prepared_weights_in_half_precision_are_as_near_as_autocast(
    make_rosita: MakeRosita, encoding: Encoding
) -> None:
    rosita = make_rosita(num_layers=3).eval()
    single = rosita(encoding).pooled
    scoring = rosita.for_scoring(torch.bfloat16)

    with torch.autocast("cpu", torch.bfloat16):
        automatic = pooled_from_parts(rosita, encoding)
        text, regions = scoring.text_part(encoding), scoring.region_part(encoding)
    prepared = scoring.pooled_output(text, regions)

    assert prepared.dtype is torch.float32
    assert 0 < (prepared - single).abs().max() < 2 * (automatic.float() - single).abs().max()


@pytest.mark.parametrize("absent", [("text_mask",), ("region_mask",), ("text_mask", "region_mask")], ids="+".join)
def test_an_absent_mask_means_that_nothing_is_padded(
    make_rosita: MakeRosita, encoding: Encoding, absent: tuple[str, ...]
) -> None:
    rosita = make_rosita().eval().double()
    unpadded = replace(encoding, **{name: torch.ones_like(getattr(encoding, name)) for name in absent})

    pooled = pooled_from_parts(rosita, encoding, *absent)

    torch.testing.assert_close(pooled, rosita(unpadded).pooled, rtol=0, atol=1e-14)
    assert not torch.allclose(pooled, rosita(encoding).pooled, atol=1e-6)  # the masks do hide something here


def test_without_padding_there_is_no_attention_mask(make_rosita: MakeRosita, encoding: Encoding) -> None:
    rosita = make_rosita().eval()
    masks = []
    rosita.backbone.layers[0].mhatt.register_forward_pre_hook(lambda module, inputs: masks.append(inputs[1]))

    pooled_from_parts(rosita, encoding, "text_mask", "region_mask")

    assert masks == [None]


def test_parts_may_be_expanded(make_rosita: MakeRosita, encoding: Encoding) -> None:
    rosita = make_rosita().eval().double()
    one_text = {name: tensor[1:2].expand(3, *tensor.shape[1:]) for name, tensor in rosita.text_part(encoding).items()}
    repeated = replace(encoding, token_ids=encoding.token_ids[[1, 1, 1]], text_mask=encoding.text_mask[[1, 1, 1]])

    pooled = rosita.pooled_output(one_text, rosita.region_part(encoding))

    torch.testing.assert_close(pooled, rosita(repeated).pooled, rtol=0, atol=1e-14)


def test_the_last_layer_computes_cls_alone(make_rosita: MakeRosita, encoding: Encoding) -> None:
    rosita = make_rosita().eval()
    widths = []
    for layer in rosita.backbone.layers:
        for module in (layer.mhatt.dense_q, layer.mhatt.dense_k, layer.mhatt.dense_merge, layer.ffn.dense0):
            module.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[1]))

    pooled_from_parts(rosita, encoding)

    assert widths == [7, 7, 7, 7, 1, 7, 1, 1]


def test_gradients_are_those_of_forward(make_rosita: MakeRosita, encoding: Encoding) -> None:
    rosita = make_rosita(num_layers=3, dropout=0.0).train().double()
    rosita(encoding).pooled.square().sum().backward()
    expected = {name: parameter.grad for name, parameter in rosita.named_parameters()}
    rosita.zero_grad()

    pooled_from_parts(rosita, encoding).square().sum().backward()

    found = {name: parameter.grad for name, parameter in rosita.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_parts_work_under_autocast(make_rosita: MakeRosita, encoding: Encoding) -> None:
    rosita = make_rosita().eval()
    single = rosita(encoding).pooled

    with torch.autocast("cpu", torch.bfloat16):
        automatic = pooled_from_parts(rosita, encoding)

    torch.testing.assert_close(automatic.float(), single, rtol=0.1, atol=0.05)


class _ForgetsMasks(Rosita):
    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        return super().pooled_output({"states": text["states"]}, regions)


class _LooksAtTheOtherSide(Rosita):
    def text_part(self, encoding: Encoding) -> dict[str, Tensor]:
        part = super().text_part(encoding)
        return {**part, "states": part["states"] + encoding.boxes.mean()}


class _ComputesOneRow(Rosita):
    def region_part(self, encoding: Encoding) -> dict[str, Tensor]:
        return {name: tensor[:1] for name, tensor in super().region_part(encoding).items()}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_ForgetsMasks, "pooled_output is not forward's pooled, for padded texts and regions"),
        (_LooksAtTheOtherSide, "pooled_output is not forward's pooled, for padded texts and regions"),
        (_ComputesOneRow, "'states' of a part must have one row per text or image"),
    ],
)
def test_the_kit_finds_parts_that_are_wrong(make_rosita: MakeRosita, broken: type[Rosita], message: str) -> None:
    rosita = make_rosita()
    rosita.__class__ = broken

    with pytest.raises(AssertionError, match=message):
        check_backbone(rosita, ["a cat", "the dog on the left", ""], 6, max_text_tokens=12)


@pytest.mark.parametrize("full", [False, True], ids=["padded", "nothing padded"])
def test_a_head_that_reads_the_pooled_output_alone_gets_the_same_gradients(
    make_rosita: MakeRosita, encoding: Encoding, full: bool
) -> None:
    check_pooled_alone(make_rosita(dropout=0.0).double(), encoding, full=full)


def test_layers_that_are_computed_again_drop_the_same(make_rosita: MakeRosita, encoding: Encoding) -> None:
    check_recomputation(make_rosita(dropout=0.3), encoding)
