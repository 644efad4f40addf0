"""Texts and boxes reach the networks as the authors' loaders would have made them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlrun import ConfigError, DataError, Encoding, Pair, RegionBatch
from vlrun.blocks.wordpiece import WordPiece
from vlrun_lxmert_s.model import Lxmert
from vlrun_lxmert_s.text import LxmertPairEncoder, split_words, word_numbers

MakeNetwork = Callable[..., Lxmert]

both = pytest.mark.parametrize("name", ["lxmert-s", "lxmert"])


@pytest.fixture
def sentences(golden: Path) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads((golden / "lxmert_s" / "text.json").read_text())["items"]
    return items


@pytest.fixture
def wordpiece(sentences: list[dict[str, Any]], tmp_path: Path) -> WordPiece:
    """The tokens of the real vocabulary that the sentences fall into, on their lines where those are known."""
    special = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
    found = {}
    for item in sentences:
        found.update(zip(item["lxmert"]["wordpieces"], item["lxmert"]["input_ids"][1:-1], strict=False))
    ids = {**{token: line for token, line in found.items() if line not in special.values()}, **special}
    seen = dict.fromkeys(piece for item in sentences for piece in item["lxmert"]["wordpieces"])
    by_line = {line: token for token, line in ids.items()}
    loose = [token for token in seen if token not in ids]
    size = max(by_line) + 1 + len(loose)
    lines = [by_line.get(n) or (loose.pop() if loose else f"[unused{n}]") for n in range(size)]
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return WordPiece(path)


@pytest.fixture
def length(golden: Path) -> int:
    """The padded length of the sentences."""
    return int(json.loads((golden / "lxmert_s" / "text.json").read_text())["max_seq_length"])


def pair_encoder(wordpiece: WordPiece, name: str, length: int) -> LxmertPairEncoder:
    return LxmertPairEncoder(
        backbone=name,
        wordpiece=wordpiece,
        max_text_tokens=length,
        max_positions=512,
        numbers_words=name == "lxmert-s",
        num_regions=3,
        region_feature_size=6,
    )


def region_batch(counts: list[int], width: int = 6) -> RegionBatch:
    """Images of 200 x 100 pixels (width x height) with that many regions."""
    rng = np.random.default_rng(0)
    most = max(counts)
    mask = np.arange(most) < np.array(counts)[:, None]
    corners = np.sort(rng.uniform(0, 100, (len(counts), most, 2, 2)), axis=2).reshape(len(counts), most, 4)
    return RegionBatch(
        tuple(f"image{index}" for index in range(len(counts))),
        (rng.random((len(counts), most, width)) * mask[..., None]).astype(np.float16),
        (corners * mask[..., None]).astype(np.float32),
        mask,
        np.tile(np.float32([100, 200]), (len(counts), 1)),
    )


def one_box(*box: float, padding: int = 0) -> RegionBatch:
    boxes = np.zeros((1, 1 + padding, 4), np.float32)
    boxes[0, 0] = box
    mask = np.arange(1 + padding)[None] < 1
    features = np.zeros((1, 1 + padding, 6), np.float32)
    return RegionBatch(("COCO_1",), features, boxes, mask, np.float32([[100, 200]]))


def encode(encoder: Any, texts: list[str]) -> Encoding:
    return encoder([Pair(text, "image") for text in texts], region_batch([3] * len(texts)))


@pytest.mark.golden
@both
def test_sentences_become_the_ids_of_the_original(
    sentences: list[dict[str, Any]], wordpiece: WordPiece, length: int, name: str
) -> None:
    theirs = [item[name.replace("-", "_")] for item in sentences]

    ours = encode(pair_encoder(wordpiece, name, length), [item["sent"] for item in sentences])

    assert sentences
    assert ours.token_ids.tolist() == [each["input_ids"] for each in theirs]
    assert ours.text_mask.long().tolist() == [each["input_mask"] for each in theirs]
    assert (ours.position_ids is None) is (name == "lxmert")
    if name == "lxmert-s":
        assert ours.position_ids.tolist() == [each["token_position"] for each in theirs]


@pytest.mark.golden
def test_every_sentence_alone_has_the_same_ids_with_less_padding(
    sentences: list[dict[str, Any]], wordpiece: WordPiece, length: int
) -> None:
    encoder = pair_encoder(wordpiece, "lxmert-s", length)

    alone = [encode(encoder, [item["sent"]]) for item in sentences]

    padded = [F.pad(each.position_ids[0], (0, length - each.position_ids.shape[1])).tolist() for each in alone]
    assert padded == [item["lxmert_s"]["token_position"] for item in sentences]
    assert min(each.position_ids.shape[1] for each in alone) < length


@pytest.mark.golden
def test_word_pieces_and_word_numbers_equal_the_original(sentences: list[dict[str, Any]], wordpiece: WordPiece) -> None:
    words = [split_words(item["sent"]) for item in sentences]

    assert [word_numbers(each) for each in words] == [item["lxmert_s"]["basic_word_numbers"] for item in sentences]
    assert [wordpiece.tokens(" ".join(each)) for each in words] == [item["lxmert"]["wordpieces"] for item in sentences]


@pytest.mark.golden
@pytest.mark.samples
@both
def test_the_real_vocabulary_gives_the_ids_of_the_original(
    sentences: list[dict[str, Any]], length: int, samples: Path, name: str
) -> None:
    real = WordPiece(samples / "vocabs" / "bert_base_uncased_vocab.txt")

    ours = encode(pair_encoder(real, name, length), [item["sent"] for item in sentences])

    assert ours.token_ids.tolist() == [item["lxmert"]["input_ids"] for item in sentences]


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("a cats dog", [1, 2, 3, 3, 4, 1, 0, 0]),
        ("cats' dog, a", [1, 2, 2, 2, 3, 3, 4, 1]),
        ("# cat dog", [1, 4, 2, 3, 1, 0, 0, 0]),
        ("a # cat", [1, 2, 2, 3, 1, 0, 0, 0]),
        ("a \u0301 cat", [1, 2, 4, 1, 0, 0, 0, 0]),
        ("a [MASK] cat", [1, 2, 3, 4, 1, 0, 0, 0]),
        ("", [1, 1, 0, 0, 0, 0, 0, 0]),
    ],
    ids=["word pieces", "punctuation", "hash first", "hash later", "vanished word", "special token", "empty"],
)
def test_positions_count_words(make_network: MakeNetwork, text: str, positions: list[int]) -> None:
    encoding = encode(make_network("lxmert-s").pair_encoder(8), [text, "a " * 20])

    assert encoding.position_ids[0].tolist() == positions


@both
def test_a_text_that_occurs_again_is_encoded_alike(make_network: MakeNetwork, name: str) -> None:
    texts = ["a cat", "the left", "a cat", "dogs, dogs", "the left"]

    encoding = encode(make_network(name).pair_encoder(8), texts)

    alone = [encode(make_network(name).pair_encoder(8), [text, "dogs, dogs"]) for text in texts]
    assert encoding.token_ids.tolist() == [each.token_ids[0].tolist() for each in alone]
    assert encoding.text_mask.tolist() == [each.text_mask[0].tolist() for each in alone]
    if name == "lxmert-s":
        assert encoding.position_ids.tolist() == [each.position_ids[0].tolist() for each in alone]


def test_a_position_beyond_the_table_gets_its_last_row(make_network: MakeNetwork) -> None:
    network = make_network("lxmert-s", max_positions=8).eval()

    encoding = encode(network.pair_encoder(8), ["# " + "cat " * 20])

    assert encoding.position_ids[0].tolist() == [1, 7, 2, 3, 4, 5, 6, 1]
    network(encoding)


@both
@pytest.mark.parametrize(
    ("texts", "limit", "width"),
    [
        (["cat"], 12, 4),
        (["a cat on the left"], 12, 8),
        (["a cat on the left"] * 2 + ["a " * 40], 12, 12),
        (["a " * 40], 11, 11),
    ],
    ids=["short", "rounded", "cut", "limit is no multiple"],
)
def test_texts_are_as_wide_as_the_batch_needs(
    make_network: MakeNetwork, name: str, texts: list[str], limit: int, width: int
) -> None:
    encoding = encode(make_network(name).pair_encoder(limit), texts)

    assert encoding.token_ids.shape == encoding.text_mask.shape == (len(texts), width)


@pytest.mark.parametrize("counts", [[3, 3], [1, 2], [5, 1]], ids=["exact", "fewer", "more"])
def test_regions_are_padded_and_cut_to_the_configured_number(make_network: MakeNetwork, counts: list[int]) -> None:
    regions = region_batch(counts)

    encoding = make_network("lxmert", num_regions=3).pair_encoder(8)([Pair("a", "image")] * 2, regions)

    kept = min(3, regions.mask.shape[1])
    assert encoding.region_mask.sum(1).tolist() == [min(count, 3) for count in counts]
    assert encoding.region_features.dtype is torch.float16  # as stored: casting is the device's work
    assert encoding.region_features[:, :kept].tolist() == regions.features[:, :kept].tolist()
    assert encoding.boxes.shape == (2, 3, 4)
    assert not encoding.boxes[~encoding.region_mask].any()


@both
def test_boxes_are_corners_as_shares_of_the_image(make_network: MakeNetwork, name: str) -> None:
    encoding = make_network(name).pair_encoder(8)([Pair("a", "COCO_1")], one_box(20, 10, 120, 60))

    assert encoding.boxes[0, 0].tolist() == pytest.approx([0.1, 0.1, 0.6, 0.6])


@pytest.mark.parametrize("box", [(0, 0, 200, 100), (-0.001, -0.0005, 200.001, 100.0005)], ids=["exact", "rounding"])
def test_boxes_may_end_where_the_image_does(make_network: MakeNetwork, box: tuple[float, ...]) -> None:
    encoding = make_network("lxmert-s").pair_encoder(8)([Pair("a", "COCO_1")], one_box(*box))

    assert encoding.boxes[0, 0].tolist() == pytest.approx([0, 0, 1, 1], abs=1e-5)


@pytest.mark.parametrize(
    "box",
    [(0, 0, 201, 100), (0, 0, 200, 101), (-1, 0, 9, 9), (0, float("nan"), 9, 9)],
    ids=["x", "y", "negative", "nan"],
)
def test_a_box_that_leaves_its_image_is_an_error(make_network: MakeNetwork, box: tuple[float, ...]) -> None:
    with pytest.raises(
        DataError, match=r"image 'COCO_1': box 0 \(.*\) leaves the image, which is 200 wide and 100 high"
    ):
        make_network("lxmert-s").pair_encoder(8)([Pair("a", "COCO_1")], one_box(*box, padding=2))


@both
def test_features_of_another_width_are_an_error(make_network: MakeNetwork, name: str) -> None:
    with pytest.raises(DataError, match=f"'image0' are 7 wide, backbone '{name}' expects 6"):
        make_network(name).pair_encoder(8)([Pair("a", "image0")], region_batch([3], width=7))


@both
def test_the_encoder_is_picklable(make_network: MakeNetwork, name: str) -> None:
    encoder = make_network(name).pair_encoder(8)
    expected = encode(encoder, ["a cat"])

    again = encode(pickle.loads(pickle.dumps(encoder)), ["a cat"])

    assert again.token_ids.tolist() == expected.token_ids.tolist()


@both
@pytest.mark.parametrize("length", [2, 13])
def test_impossible_text_lengths_are_refused(make_network: MakeNetwork, name: str, length: int) -> None:
    with pytest.raises(ConfigError, match=f"max_text_tokens is {length}, backbone '{name}' takes 3 .* to 12"):
        make_network(name, max_positions=12).pair_encoder(length)
