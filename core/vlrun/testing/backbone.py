"""The check of backbones."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlrun.blocks.attention import record_attention
from vlrun.interfaces.backbone import Backbone, PairEncoder, PairNetwork
from vlrun.interfaces.examples import Pair, RegionBatch
from vlrun.interfaces.pictures import PictureShape
from vlrun.interfaces.tensors import Encoding
from vlrun.testing.stubs import make_pictures, make_regions

_TOLERANCE = 1e-5
_LARGEST_BOX_FEATURE = 10.0  # shares of the image, or their logarithms, are less; pixels of the test images are more
_TEXT_FIELDS = ("text_mask", "token_ids", "position_ids")  # the mask comes first
_REGION_FIELDS = ("region_mask", "region_features", "boxes")
_PER_REGION = (
    *("features", "boxes", "mask"),
    *("class_ids", "class_scores", "attribute_ids", "attribute_scores"),
)
_TAG_FIELDS = ("tag_mask", "tag_ids")
_WHOLE_FIELDS = ("pixels",)  # of an image, with no axis for what is padded
_IMAGE_FIELDS = _REGION_FIELDS + _TAG_FIELDS + _WHOLE_FIELDS

MakeImages = Callable[[Sequence[str]], RegionBatch]


def check_backbone(
    backbone: Backbone,
    texts: Sequence[str],
    feature_size: int = 0,
    max_text_tokens: int = 20,
    *,
    pictures: PictureShape | None = None,
    num_classes: int = 0,
) -> None:
    """Asserts what the core relies on in a backbone.

    The pair encoder is picklable and not random, cuts texts to the limit that it is made with, and gives tensors of the
    stated types and shapes, with boxes that are no longer pixels; padding does not change the pooled output; the parts
    and ``pooled_output``, also ``for_scoring``, give the same pooled output as ``forward``, and ``similarity`` of two
    towers what the matching head says of it; attention that is shown is that of tokens to regions; weights survive
    saving and loading; the matching head has two classes and is part of the network from the start; so are the word
    embeddings, if it offers them, with a row for each word.

    Args:
        feature_size: width of the region features, for backbones that read such.
        pictures: how the others want pictures.
        num_classes: how many classes the detector has, for backbones that read its classes.
    """
    make: MakeImages = partial(make_regions, feature_size=feature_size, num_classes=num_classes)
    if pictures is not None:
        make = partial(make_pictures, shape=pictures)
    pairs = [Pair(text, f"image_{index}") for index, text in enumerate(texts)]
    regions = make([pair.image_id for pair in pairs])
    encode = backbone.pair_encoder(max_text_tokens)
    encoding = encode(pairs, regions)
    again = pickle.loads(pickle.dumps(encode))(pairs, regions)  # noqa: S301 - our own object
    _assert_equal_fields(encoding, again, _TEXT_FIELDS + _IMAGE_FIELDS, "the pair encoder changes {} from call to call")
    _check_encoding(encoding, regions, len(pairs), reads_pictures=pictures is not None)
    _check_limits(backbone, texts, make, max_text_tokens)

    backbone.eval()
    parts = {id(parameter) for parameter in backbone.parameters()}
    head = backbone.matching_head()
    assert all(id(parameter) in parts for parameter in head.parameters()), "build the matching head with the network"
    assert head is backbone.matching_head(), "the matching head must be the same at each call"
    if (table := backbone.word_table()) is not None:
        assert id(table) in parts, "the word embeddings must be a parameter of the network"
        num_words = len(table) if backbone.wordpiece is None else backbone.wordpiece.size
        assert table.shape == (num_words, backbone.hidden_size), "the word embeddings must be (V, H)"
    with torch.inference_mode(), record_attention(encoding) as record:
        output = backbone(encoding)
        logits = head(output.pooled)
    num_pairs, length = encoding.token_ids.shape
    width = backbone.hidden_size
    assert output.text.shape == (num_pairs, length, width), "text must be (P, L, H)"
    assert output.regions.shape == (num_pairs, encoding.region_mask.shape[1], width), "regions must be (P, R, H)"
    assert output.pooled.shape == (num_pairs, width), "pooled must be (P, H)"
    assert logits.shape == (num_pairs, 2), "the matching head must give (P, 2) logits"
    assert (shares := record.shares()) is None or shares.shape == (num_pairs, length, encoding.region_mask.shape[1]), (
        "queries that show regions begin with the tokens, and keys end with the regions"
    )
    _check_padding(backbone, encode, pairs, regions, output.pooled)
    for network in filter(None, (backbone, backbone.for_scoring(next(backbone.parameters()).dtype))):
        _check_parts(backbone, network, encode, pairs, regions, make)
    if backbone.two_towers:
        _check_similarity(backbone, encode, pairs, regions)
    _check_weights_round_trip(backbone)


@torch.inference_mode()
def _check_similarity(backbone: Backbone, encode: PairEncoder, pairs: list[Pair], regions: RegionBatch) -> None:
    """Asserts that the product of matrices gives what the matching head says of each pair."""
    encoding = encode(pairs, regions)
    text_part, region_part = backbone.text_part(encoding), backbone.region_part(encoding)
    assert [*text_part] == [*region_part] == ["vector"], "the parts of two towers are one tensor, 'vector', each"
    vectors = backbone(encoding).vectors
    assert vectors is not None, "outputs of two towers have the vectors of texts and images"
    for vector, part in zip(vectors, (text_part, region_part), strict=True):
        assert torch.allclose(vector, part["vector"], atol=_TOLERANCE), "the vectors of outputs are those of the parts"
    found = backbone.similarity(text_part, region_part)
    assert found.shape == (len(pairs), len(pairs)), "similarity must give (M, N) for N texts and M images"
    for row in range(len(pairs)):
        image = {name: tensor[row].expand_as(tensor) for name, tensor in region_part.items()}
        logits = backbone.matching_head()(backbone.pooled_output(text_part, image))
        expected = torch.stack([torch.zeros_like(found[row]), found[row]], dim=-1)
        assert torch.allclose(logits, expected, atol=_TOLERANCE), "similarity must be the logit of a match, beside 0"


def _check_encoding(encoding: Encoding, regions: RegionBatch, num_pairs: int, *, reads_pictures: bool) -> None:
    length, num_regions = encoding.token_ids.shape[1:2] + encoding.region_mask.shape[1:2]
    ids, halves = (torch.int64,), (torch.float16, torch.float32)
    for name, shape, kinds in (
        ("token_ids", (num_pairs, length), ids),
        ("position_ids", (num_pairs, length), ids),
        ("text_mask", (num_pairs, length), (torch.bool,)),
        ("region_mask", (num_pairs, num_regions), (torch.bool,)),
        ("region_features", (num_pairs, num_regions), (*halves, torch.uint8)),
        ("boxes", (num_pairs, num_regions), (torch.float32,)),
        ("pixels", (num_pairs, 3), (torch.uint8,)),
        ("tag_ids", (num_pairs,), ids),
        ("tag_mask", (num_pairs,), (torch.bool,)),
    ):
        tensor = getattr(encoding, name)
        if tensor is None:
            continue
        assert tensor.dtype in kinds, f"{name} must be {_names(kinds)}, and are {_names((tensor.dtype,))}"
        found = tuple(tensor.shape[: len(shape)])
        assert found == shape, f"{name} must begin with the sizes {shape}, and are of {tuple(tensor.shape)}"
    for mask, full in ((encoding.text_mask, encoding.full_texts), (encoding.region_mask, encoding.full_regions)):
        assert mask.all() or not full, "full_texts and full_regions are True only where nothing is padded"
    assert encoding.text_mask.any(dim=1).all(), "every text needs a token, an empty one too"
    assert encoding.region_mask.any(dim=1).all(), "every image needs a region"
    if reads_pictures:
        return
    real = encoding.boxes[encoding.region_mask]
    assert not real.numel() or real.abs().max() <= _LARGEST_BOX_FEATURE, (
        f"boxes must be no longer pixels, such as shares of the image's size, and a region has {real[0].tolist()}"
    )
    features = torch.from_numpy(regions.features)
    assert encoding.region_features.dtype == features.dtype, (
        f"region_features must leave as they come, {_names((features.dtype,))}; cast them in forward"
    )


def _check_limits(backbone: Backbone, texts: Sequence[str], make: MakeImages, max_text_tokens: int) -> None:
    """Asserts that texts are cut to the limit that an encoder is made with, also where that is another one."""
    words = next(filter(None, texts), "word")
    pairs = [Pair(" ".join([words] * max_text_tokens), "image_0")]
    for limit in (max_text_tokens, max_text_tokens // 2):
        length = backbone.pair_encoder(limit)(pairs, make(["image_0"])).token_ids.shape[1]
        assert length <= limit, f"texts must be cut to max_text_tokens: {length} tokens where {limit} are allowed"


def _names(kinds: Sequence[torch.dtype]) -> str:
    return " or ".join(str(kind).removeprefix("torch.") for kind in kinds)


def _check_padding(backbone: Backbone, encode: Any, pairs: list[Pair], regions: RegionBatch, pooled: Tensor) -> None:
    """Asserts that a pair alone, without padding, gives the same pooled output as in a batch."""
    for row, pair in enumerate(pairs):
        with torch.inference_mode():
            output = backbone(encode([pair], _alone(regions, row)))
        assert torch.allclose(output.pooled[0], pooled[row], atol=_TOLERANCE), f"padding changes the output of {pair}"


def _alone(regions: RegionBatch, row: int) -> RegionBatch:
    """One image without the padding that others made it have."""
    image = regions.take([row])
    count = int(image.mask.sum())
    cut = {name: array[:, :count] for name in _PER_REGION if (array := getattr(image, name)) is not None}
    return replace(image, **cut)


@torch.inference_mode()
def _check_parts(
    backbone: Backbone,
    network: PairNetwork,
    encode: PairEncoder,
    pairs: list[Pair],
    regions: RegionBatch,
    make: MakeImages,
) -> None:
    """Asserts that a network's ``pooled_output`` is ``forward``'s, whatever image or text each part was made with."""
    count, encoding = len(pairs), encode(pairs, regions)
    other_regions = make(["placeholder"] * count)
    texts = encode(pairs, other_regions)
    images = encode([Pair(pairs[0].text, pair.image_id) for pair in pairs], regions)
    _assert_equal_fields(texts, encoding, _TEXT_FIELDS, "the {} of an encoding must not depend on the regions")
    _assert_equal_fields(images, encoding, _IMAGE_FIELDS, "the {} of an encoding must not depend on the texts")

    def assert_pooled(text: Mapping[str, Tensor], region: Mapping[str, Tensor], pooled: Tensor, which: str) -> None:
        output = network.pooled_output(text, region)
        assert output.shape == pooled.shape, f"pooled_output must give (P, H), for {which}"
        assert torch.allclose(output, pooled, atol=_TOLERANCE), f"pooled_output is not forward's pooled, for {which}"

    text_part, region_part = network.text_part(texts), network.region_part(images)
    for name, tensor in {**text_part, **region_part}.items():
        assert len(tensor) == count, f"'{name}' of a part must have one row per text or image"
    assert_pooled(text_part, region_part, backbone(encoding).pooled, "padded texts and regions")
    for row, pair in enumerate(pairs):
        text = _part_without_padding(network.text_part, texts, row, _TEXT_FIELDS)
        pooled = backbone(encode([pair] * count, regions)).pooled
        assert_pooled(_expanded(text, count), region_part, pooled, f"{pair} without padding, expanded")
        region = _part_without_padding(network.region_part, images, row, _REGION_FIELDS)
        pooled = backbone(encode(pairs, regions.take([row] * count))).pooled
        assert_pooled(text_part, _expanded(region, count), pooled, f"the regions of {pair} without padding, expanded")
        assert_pooled(text, region, pooled[row : row + 1], f"{pair} and its regions without padding")


def _part_without_padding(
    make_part: Callable[[Encoding], dict[str, Tensor]], encoding: Encoding, row: int, fields: Sequence[str]
) -> dict[str, Tensor]:
    """The part of one text or image, without padding and so without a mask."""
    real = getattr(encoding, fields[0])[row]
    values = {name: getattr(encoding, name) for name in fields}
    unpadded: dict[str, Any] = {name: value[row : row + 1, real] for name, value in values.items() if value is not None}
    wholes = {name: value for name in _WHOLE_FIELDS if (value := getattr(encoding, name)) is not None}
    unpadded |= {name: value[row : row + 1] for name, value in wholes.items()}
    if fields is _REGION_FIELDS and encoding.tag_ids is not None and encoding.tag_mask is not None:
        tags = encoding.tag_mask[row]
        unpadded |= {name: getattr(encoding, name)[row : row + 1, tags] for name in _TAG_FIELDS}
    return {name: tensor for name, tensor in make_part(replace(encoding, **unpadded)).items() if name != fields[0]}


def _expanded(part: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in part.items()}


def _check_weights_round_trip(backbone: Backbone) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    not_numbers = [name for name, tensor in before.items() if tensor.isnan().any()]
    assert not not_numbers, f"the initial weights have NaN: {', '.join(not_numbers)}"
    backbone.load_state_dict(before)
    changed = [name for name, tensor in backbone.state_dict().items() if not torch.equal(before[name], tensor)]
    assert not changed, f"weights must be the same after they were saved and loaded: {', '.join(changed)}"


def _assert_equal_fields(first: Encoding, second: Encoding, names: Sequence[str], message: str) -> None:
    for name in names:
        one, other = getattr(first, name), getattr(second, name)
        is_same = one is other if one is None or other is None else torch.equal(one, other)
        assert is_same, message.format(name)
