"""What is masked, how often, and with what: LXMERT's shares, and the same for the same generator."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import pytest
import torch

from vlrun import Encoding, Unmasked
from vlrun.seeds import example_rng
from vlrun.testing import make_regions
from vlrun_pretraining.masking import mask_regions, mask_words

SPECIAL = 5  # ids under this are special tokens


def rngs(count: int, epoch: int = 0) -> list[np.random.Generator]:
    return [example_rng(0, epoch, index) for index in range(count)]


def unmasked(encoding: Encoding, rngs: Sequence[np.random.Generator], vocabulary: Any) -> Unmasked[Any]:
    regions = make_regions([f"image{row}" for row in range(len(rngs))], encoding.region_features.shape[2])
    return Unmasked([], [], regions, encoding, rngs, vocabulary, read_regions=lambda ids: regions)


@pytest.fixture
def long_text(wordpiece: Any) -> np.ndarray:
    body = np.random.default_rng(0).integers(SPECIAL, wordpiece.size, 40_000)
    return np.concatenate([[wordpiece.cls_id], body, [wordpiece.sep_id], np.full(50, wordpiece.pad_id)])


def test_words_are_masked_in_lxmerts_shares(long_text: Any, wordpiece: Any) -> None:
    shown, labels = mask_words(long_text, wordpiece, 0.15, np.random.default_rng(1))
    masked = labels >= 0
    assert masked.mean() == pytest.approx(0.15, abs=0.01)
    assert (shown[masked] == wordpiece.mask_id).mean() == pytest.approx(0.8 + 0.1 / wordpiece.size, abs=0.02)
    assert (shown[masked] == long_text[masked]).mean() == pytest.approx(0.1 + 0.1 / wordpiece.size, abs=0.02)
    assert set(shown[masked]) == set(range(wordpiece.size)), "a random entry is any of the vocabulary"


def test_labels_are_the_tokens_that_were_there_and_the_rest_is_untouched(long_text: Any, wordpiece: Any) -> None:
    before = long_text.copy()
    shown, labels = mask_words(long_text, wordpiece, 0.5, np.random.default_rng(1))
    masked = labels >= 0
    np.testing.assert_array_equal(labels[masked], before[masked])
    np.testing.assert_array_equal(shown[~masked], before[~masked])
    np.testing.assert_array_equal(long_text, before)


def test_special_tokens_are_never_masked(wordpiece: Any) -> None:
    text = np.array([wordpiece.cls_id, 7, wordpiece.unknown_id, 8, wordpiece.mask_id, wordpiece.sep_id, 0, 0])
    for seed in range(50):
        shown, labels = mask_words(text, wordpiece, 1.0, np.random.default_rng(seed))
        np.testing.assert_array_equal(labels >= 0, [0, 1, 0, 1, 0, 0, 0, 0])
        np.testing.assert_array_equal(np.delete(shown, [1, 3]), np.delete(text, [1, 3]))


def test_padding_changes_nothing_in_what_is_drawn(wordpiece: Any) -> None:
    text = np.array([wordpiece.cls_id, 7, 8, 9, 10, wordpiece.sep_id])
    padded = np.concatenate([text, [wordpiece.pad_id] * 3])
    short = mask_words(text, wordpiece, 0.5, np.random.default_rng(3))
    long = mask_words(padded, wordpiece, 0.5, np.random.default_rng(3))
    np.testing.assert_array_equal(np.stack(short), np.stack(long)[:, :6])


def test_regions_are_masked_in_lxmerts_shares() -> None:
    regions, sources = mask_regions(np.ones(40_000, bool), 0.15, np.random.default_rng(1))
    assert len(regions) / 40_000 == pytest.approx(0.15, abs=0.01)
    assert (sources == -1).mean() == pytest.approx(0.8, abs=0.02)
    assert (sources == regions).mean() == pytest.approx(0.1, abs=0.02)


def test_padding_is_never_masked_and_never_shown_in_place_of_a_region() -> None:
    is_region = np.array([True, False, True, True, False])
    drawn = [mask_regions(is_region, 1.0, np.random.default_rng(seed)) for seed in range(200)]
    assert all(regions.tolist() == [0, 2, 3] for regions, _ in drawn)
    assert {int(source) for _, sources in drawn for source in sources} == {-1, 0, 2, 3}


def test_one_region_alone_is_shown_in_its_own_place() -> None:
    drawn = [mask_regions(np.array([True, False]), 1.0, np.random.default_rng(seed)) for seed in range(50)]
    assert {int(source) for _, sources in drawn for source in sources} == {-1, 0}


def test_a_batch_has_its_targets_where_it_was_masked(make_task: Any, make_encoding: Any, wordpiece: Any) -> None:
    task = make_task(mask_words=0.5, mask_regions=0.5)
    encoding = make_encoding(["a red cat", "the blue dogs on the left ."] * 10)
    features = encoding.region_features.clone()

    shown, targets = task.mask(unmasked(encoding, rngs(20), wordpiece))

    masked = targets["word_labels"] >= 0
    assert torch.equal(targets["word_labels"][masked], encoding.token_ids[masked])
    assert torch.equal(shown.token_ids[~masked], encoding.token_ids[~masked])
    is_masked = targets["region_is_masked"]
    assert torch.equal(targets["region_features"], features[is_masked])
    assert torch.equal(shown.region_features[~is_masked], features[~is_masked])
    assert not (is_masked & ~encoding.region_mask).any()
    zeros = (shown.region_features[is_masked] == 0).all(dim=1)
    assert 0.5 < zeros.float().mean() < 1
    assert torch.equal(shown.boxes, encoding.boxes)
    assert torch.equal(encoding.region_features, features), "what the encoder made stays as it is"


def test_what_a_pair_looks_like_depends_on_its_generator_alone(
    make_task: Any, make_encoding: Any, wordpiece: Any
) -> None:
    task = make_task(mask_words=0.5, mask_regions=0.5)
    texts = ["a red cat", "the blue dogs on the left .", "cats"]
    encoding = make_encoding(texts)
    whole, targets = task.mask(unmasked(encoding, rngs(3), wordpiece))
    again, _ = task.mask(unmasked(encoding, rngs(3), wordpiece))
    other, _ = task.mask(unmasked(encoding, rngs(3, epoch=1), wordpiece))
    assert torch.equal(whole.token_ids, again.token_ids)
    assert torch.equal(whole.region_features, again.region_features)
    assert not torch.equal(whole.region_features, other.region_features)

    alone, of_one = task.mask(unmasked(make_encoding(texts[:1]), rngs(1), wordpiece))
    length = alone.token_ids.shape[1]
    assert torch.equal(alone.token_ids[0], whole.token_ids[0, :length])
    assert torch.equal(alone.region_features[0], whole.region_features[0])
    assert torch.equal(of_one["word_labels"][0], targets["word_labels"][0, :length])


def test_nothing_masked_is_no_error(make_task: Any, make_encoding: Any, wordpiece: Any) -> None:
    task = make_task(mask_words=0, mask_regions=0)
    encoding = make_encoding(["a red cat", "cats"])
    shown, targets = task.mask(unmasked(encoding, rngs(2), wordpiece))
    assert torch.equal(shown.token_ids, encoding.token_ids)
    assert targets["region_features"].shape == (0, 6)
    assert not targets["region_is_masked"].any()


def test_masks_follow_the_vocabulary_given_and_no_earlier_call(
    make_task: Any, make_encoding: Any, wordpiece: Any, backbone: Any
) -> None:
    """Loader workers and tests may mask before a head is built, or after one was built for another backbone."""
    encoding = make_encoding(["a red cat", "cats"])
    fresh, used = make_task(mask_words=1.0), make_task(mask_words=1.0)
    used.build_head(backbone)
    other = copy(wordpiece)
    other.mask_id = wordpiece.unknown_id

    shown = [task.mask(unmasked(encoding, rngs(2), wordpiece))[0].token_ids for task in (fresh, used)]
    with_other = used.mask(unmasked(encoding, rngs(2), other))[0].token_ids

    assert torch.equal(*shown)
    assert torch.equal(with_other == other.mask_id, shown[0] == wordpiece.mask_id)
    assert (with_other == other.mask_id).any()
