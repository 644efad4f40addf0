"""Object tags: words of what a detector saw, which belong to the image."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vlrun import BackboneOutput, DataError, Encoding, Pair, RegionBatch
from vlrun.blocks.object_tags import ObjectTags, read_class_names
from vlrun.blocks.wordpiece import SPECIAL_TOKENS, WordPiece
from vlrun.data.hidden_images import shown_regions
from vlrun.interfaces.backbone import PairEncoder
from vlrun.testing import StubBackbone, check_backbone, make_regions

NAMES = ("red cat", "dog", "cats")
WORDS = ("red", "cat", "dog", "##s")
IMAGES = ("image_0", "image_1", "image_2")


@pytest.fixture
def wordpiece(tmp_path: Path) -> WordPiece:
    path = tmp_path / "vocabulary.txt"
    path.write_text("".join(f"{token}\n" for token in (*SPECIAL_TOKENS, *WORDS)))
    return WordPiece(path)


def seen(*classes: Sequence[int]) -> RegionBatch:
    """Regions with these classes, an image each."""
    width = max(map(len, classes))
    regions = make_regions(IMAGES[: len(classes)], 4, width)
    mask = np.array([[number < len(own) for number in range(width)] for own in classes])
    class_ids = np.zeros(mask.shape, np.int32)
    class_ids[mask] = [number for own in classes for number in own]
    return replace(regions, mask=mask, class_ids=class_ids)


def words(wordpiece: WordPiece, tags: ObjectTags, regions: RegionBatch) -> list[list[str]]:
    tokens = [*SPECIAL_TOKENS, *WORDS]
    return [[tokens[number] for number in row[real]] for row, real in zip(*tags.encode(regions), strict=True)]


def test_names_follow_each_other_in_the_order_of_the_regions(wordpiece: WordPiece) -> None:
    tags = ObjectTags(wordpiece, NAMES, 6)

    told = words(wordpiece, tags, seen([1, 0], [2], [0, 2, 1, 0]))

    assert told == [
        ["dog", "red", "cat", "[SEP]"],
        ["cat", "##s", "[SEP]"],
        ["red", "cat", "cat", "##s", "dog", "[SEP]"],  # cut to six tokens
    ]
    again = pickle.loads(pickle.dumps(tags))
    assert words(wordpiece, again, seen([1], [1])) == [["dog", "[SEP]"]] * 2


def test_hidden_images_have_no_tags(wordpiece: WordPiece) -> None:
    hidden = shown_regions(seen([1, 0], [2, 2]), hides_images=True)

    assert words(wordpiece, ObjectTags(wordpiece, NAMES, 6), hidden.take([1, 0])) == [["[SEP]"]] * 2


def test_classes_that_are_missing_or_have_no_name_are_errors(wordpiece: WordPiece) -> None:
    tags = ObjectTags(wordpiece, NAMES, 6)
    with pytest.raises(DataError, match="the region features have no detector classes, from which"):
        tags.encode(make_regions(IMAGES, 4))
    with pytest.raises(DataError, match="image 'image_1' has class 3, and there are names of 3 classes"):
        tags.encode(seen([0], [3]))


def test_a_file_of_names_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("red cat,kitten\nblue\n")
    assert read_class_names(path) == ["red cat", "blue"]
    path.write_text("cat\n\ndog\n")
    with pytest.raises(DataError, match=r"classes\.txt:2: the line is empty"):
        read_class_names(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"classes\.txt: "):
        read_class_names(path)
    with pytest.raises(DataError, match="No such file"):
        read_class_names(tmp_path / "absent.txt")


# --- a backbone that reads them ---


@dataclass(frozen=True)
class Tagged:
    """A pair encoder with tags."""

    encode: PairEncoder
    tags: ObjectTags

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        tag_ids, tag_mask = (torch.from_numpy(each) for each in self.tags.encode(regions))
        return replace(self.encode(pairs, regions), tag_ids=tag_ids, tag_mask=tag_mask)


class TagBackbone(StubBackbone):
    """The stub, whose regions also see the mean of the tags."""

    reads_classes = True

    def __init__(self, tags: ObjectTags) -> None:
        super().__init__()
        self.tags, self.tag_words = tags, nn.Embedding(tags.tokenizer.size, self.hidden_size)

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        return Tagged(super().pair_encoder(max_text_tokens), self.tags)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        assert encoding.tag_ids is not None
        output = super().forward(encoding)
        mask = torch.ones_like(encoding.tag_ids, dtype=torch.bool) if encoding.tag_mask is None else encoding.tag_mask
        tags = (self.tag_words(encoding.tag_ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return replace(output, pooled=output.pooled * tags)


def test_a_backbone_with_tags_keeps_its_promises(wordpiece: WordPiece) -> None:
    torch.manual_seed(0)
    backbone = TagBackbone(ObjectTags(wordpiece, NAMES, 6))

    check_backbone(backbone, ["red cat", "two dogs in a row", "a"], feature_size=8, num_classes=len(NAMES))


class Careless(Tagged):
    """Its tags depend on the text."""

    def __call__(self, pairs: Sequence[Pair], regions: RegionBatch) -> Encoding:
        encoding = super().__call__(pairs, regions)
        assert encoding.tag_ids is not None
        return replace(encoding, tag_ids=encoding.tag_ids * torch.tensor([[len(pair.text) % 2] for pair in pairs]))


def test_the_kit_notices_tags_that_depend_on_the_text(wordpiece: WordPiece, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = TagBackbone(ObjectTags(wordpiece, NAMES, 6))
    plain = StubBackbone()
    monkeypatch.setattr(backbone, "pair_encoder", lambda length: Careless(plain.pair_encoder(length), backbone.tags))

    with pytest.raises(AssertionError, match="the tag_ids of an encoding must not depend on the texts"):
        check_backbone(backbone, ["red cat", "dogs", "a"], feature_size=8, num_classes=len(NAMES))
