"""The kit's check of backbones: what is right passes, and each mistake is caught with a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlrun import Backbone, BackboneOutput, Encoding, Pair, PairEncoder, RegionBatch
from vlrun.testing import StubBackbone, check_backbone

TEXTS = ["a red ball", "two dogs on a sofa", ""]


@dataclass(frozen=True)
class Changed:
    """A pair encoder whose encodings are changed; picklable where ``change`` is."""

    encode: PairEncoder
    change: Any

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        return self.change(self.encode(pairs, regions), regions)


class Stub(StubBackbone):
    """The stub of the kit with another pair encoder."""

    def __init__(self, change: Any = None) -> None:
        super().__init__(16, 8)
        self.change = change

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        encode = super().pair_encoder(max_text_tokens)
        return encode if self.change is None else Changed(encode, self.change)


def pixel_boxes(encoding: Encoding, regions: RegionBatch) -> Encoding:
    return replace(encoding, boxes=torch.from_numpy(regions.boxes))


def half_boxes(encoding: Encoding, regions: RegionBatch) -> Encoding:
    return replace(encoding, boxes=encoding.boxes.double())


def cast_features(encoding: Encoding, regions: RegionBatch) -> Encoding:
    return replace(encoding, region_features=encoding.region_features.float())


def short_ids(encoding: Encoding, regions: RegionBatch) -> Encoding:
    return replace(encoding, token_ids=encoding.token_ids.int())


def short_positions(encoding: Encoding, regions: RegionBatch) -> Encoding:
    return replace(encoding, position_ids=torch.zeros_like(encoding.token_ids, dtype=torch.int32))


def number_mask(encoding: Encoding, regions: RegionBatch) -> Encoding:
    return replace(encoding, text_mask=encoding.text_mask.long())


def claims_full(encoding: Encoding, regions: RegionBatch) -> Encoding:
    return replace(encoding, full_texts=True)


def no_token(encoding: Encoding, regions: RegionBatch) -> Encoding:
    return replace(encoding, text_mask=encoding.text_mask & (torch.arange(len(encoding.token_ids)) < 2)[:, None])


def one_row_less(encoding: Encoding, regions: RegionBatch) -> Encoding:
    return replace(encoding, boxes=encoding.boxes[1:]) if len(encoding.boxes) > 1 else encoding


def random_ids(encoding: Encoding, regions: RegionBatch) -> Encoding:
    return replace(encoding, token_ids=torch.randint_like(encoding.token_ids, 90))


def reads_regions_into_texts(encoding: Encoding, regions: RegionBatch) -> Encoding:
    return replace(encoding, token_ids=encoding.token_ids + int(regions.features[0, 0, 0] * 100) % 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pixel_boxes, "boxes must be no longer pixels, such as shares of the image's size, and a region has ["),
        (half_boxes, "boxes must be float32, and are float64"),
        (cast_features, "region_features must leave as they come, float16; cast them in forward"),
        (short_ids, "token_ids must be int64, and are int32"),
        (short_positions, "position_ids must be int64, and are int32"),
        (number_mask, "text_mask must be bool, and are int64"),
        (claims_full, "full_texts and full_regions are True only where nothing is padded"),
        (no_token, "every text needs a token, an empty one too"),
        (one_row_less, "boxes must begin with the sizes (3, 5), and are of (2, 5, 4)"),
        (random_ids, "the pair encoder changes token_ids from call to call"),
        (reads_regions_into_texts, "the token_ids of an encoding must not depend on the regions"),
    ],
)
def test_a_wrong_pair_encoder_is_caught(change: Any, message: str) -> None:
    with pytest.raises(AssertionError) as error:
        check_backbone(Stub(change), TEXTS, feature_size=8)
    assert message in str(error.value)


class CutsAtTwenty(Stub):
    """It was tried with the default limit alone."""

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        return super().pair_encoder(20)


class CutsNothing(Stub):
    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        return super().pair_encoder(1000)


class SeesPadding(Stub):
    def forward(self, encoding: Encoding) -> BackboneOutput:
        output = super().forward(encoding)
        return replace(output, pooled=output.regions.mean(1))


class TransposedText(Stub):
    def forward(self, encoding: Encoding) -> BackboneOutput:
        output = super().forward(encoding)
        return replace(output, text=output.text.transpose(1, 2))


class LateHead(Stub):
    def __init__(self) -> None:
        super().__init__()
        del self.match

    def matching_head(self) -> nn.Module:
        return nn.Linear(16, 2)


class OneLogit(Stub):
    def __init__(self) -> None:
        super().__init__()
        self.match = nn.Linear(16, 1)


class OtherPooled(Stub):
    def pooled_output(self, text: Mapping[str, Tensor], regions: Mapping[str, Tensor]) -> Tensor:
        return super().pooled_output(text, regions) + 1


class NotANumber(Stub):
    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.match.weight, float("nan"))


class Forgetful(Stub):
    """Its weights change when they are loaded."""

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        loaded = super().load_state_dict(*arguments, **options)
        nn.init.zeros_(self.match.weight)
        return loaded


class OtherTable(Stub):
    def word_table(self) -> nn.Parameter:
        return nn.Parameter(torch.zeros(97, 16))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (CutsAtTwenty, "texts must be cut to max_text_tokens: 20 tokens where 10 are allowed"),
        (CutsNothing, "texts must be cut to max_text_tokens: 60 tokens where 20 are allowed"),
        (SeesPadding, "padding changes the output of Pair("),
        (TransposedText, "text must be (P, L, H)"),
        (LateHead, "build the matching head with the network"),
        (OneLogit, "the matching head must give (P, 2) logits"),
        (OtherPooled, "pooled_output is not forward's pooled"),
        (NotANumber, "the initial weights have NaN: match.weight"),
        (Forgetful, "weights must be the same after they were saved and loaded: match.weight"),
        (OtherTable, "the word embeddings must be a parameter of the network"),
    ],
)
def test_a_wrong_network_is_caught(make: type[Backbone], message: str) -> None:
    with pytest.raises(AssertionError) as error:
        check_backbone(make(), TEXTS, feature_size=8)
    assert message in str(error.value)


def test_every_check_of_the_kit_says_what_is_wrong() -> None:
    """No assertion of the kit is bare."""
    import ast
    from pathlib import Path

    import vlrun.testing

    files = sorted(Path(vlrun.testing.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        bare = [
            node.lineno
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Assert) and node.msg is None
        ]
        assert not bare, f"{file}: {bare}"
    check_backbone(Stub(), TEXTS, feature_size=8)
