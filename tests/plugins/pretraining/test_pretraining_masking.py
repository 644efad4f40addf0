"""What is masked, how often, and with what: shares, spans, shuffled regions, and the same for the same generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from vlrun import Encoding, Example, RegionFeatures, Unmasked
from vlrun.seeds import example_rng
from vlrun.testing import make_regions
from vlrun_pretraining.config import MaskingOptions
from vlrun_pretraining.draws import Draws
from vlrun_pretraining.items import Items
from vlrun_pretraining.random_masking import RandomMasking, SpanMasking
from vlrun_pretraining.rule import Hidden, SeenPair, ShownPair

SPECIAL = 5  # ids under this are special tokens
IMAGES = [f"image{number}" for number in range(7)]
HALF = {"words": 0.5, "regions": 0.5}


def seen(token_ids: Sequence[int], wordpiece: Any, num_regions: int = 0) -> SeenPair:
    regions = RegionFeatures("image0", np.ones((num_regions, 2)), np.ones((num_regions, 4), np.float32), 9, 9)
    items = Items("train", IMAGES, lambda item: "a text")
    pair = ShownPair("a text", "image0")
    return SeenPair(Example("1", "a text", ("image0",)), pair, np.asarray(token_ids), regions, wordpiece, items)


def hidden(pair: SeenPair, seed: int = 1, rule: type[RandomMasking] = RandomMasking, **options: Any) -> Hidden:
    given = {"name": "spans" if rule is SpanMasking else "random", **options}
    return rule(MaskingOptions(**given)).hide(pair, Draws(np.random.default_rng(seed)))


@pytest.fixture
def long_text(wordpiece: Any) -> np.ndarray:
    body = np.random.default_rng(0).integers(SPECIAL, wordpiece.size, 40_000)
    return np.concatenate([[wordpiece.cls_id], body, [wordpiece.sep_id], np.full(50, wordpiece.pad_id)])


def test_words_are_masked_in_lxmerts_shares(long_text: Any, wordpiece: Any) -> None:
    found = hidden(seen(long_text, wordpiece), words=0.15)
    before = long_text[found.word_places]
    assert len(before) / len(long_text) == pytest.approx(0.15, abs=0.01)
    assert (found.shown_ids == wordpiece.mask_id).mean() == pytest.approx(0.8 + 0.1 / wordpiece.size, abs=0.02)
    assert (found.shown_ids == before).mean() == pytest.approx(0.1 + 0.1 / wordpiece.size, abs=0.02)
    assert set(found.shown_ids) == set(range(wordpiece.size)), "a random entry is any of the vocabulary"


def test_special_tokens_are_never_masked(wordpiece: Any) -> None:
    text = [wordpiece.cls_id, 7, 8, wordpiece.sep_id, wordpiece.pad_id, wordpiece.pad_id]
    for seed in range(50):
        assert hidden(seen(text, wordpiece), seed, words=1.0).word_places.tolist() == [1, 2]


def test_padding_changes_nothing_in_what_is_drawn(wordpiece: Any) -> None:
    text = [wordpiece.cls_id, 7, 8, 9, 10, wordpiece.sep_id]
    short, long = (hidden(seen(each, wordpiece), 3, words=0.5) for each in (text, [*text, wordpiece.pad_id]))
    np.testing.assert_array_equal(short.word_places, long.word_places)
    np.testing.assert_array_equal(short.shown_ids, long.shown_ids)


def test_words_and_regions_are_drawn_apart(wordpiece: Any) -> None:
    text = [wordpiece.cls_id, *range(6, 14), wordpiece.sep_id]
    few, many = (hidden(seen(text, wordpiece, count), 3, **HALF) for count in (3, 30))
    np.testing.assert_array_equal(few.word_places, many.word_places)
    np.testing.assert_array_equal(few.shown_ids, many.shown_ids)


def test_regions_are_masked_in_lxmerts_shares(wordpiece: Any) -> None:
    found = hidden(seen([], wordpiece, 40_000), regions=0.15)
    assert len(found.region_places) / 40_000 == pytest.approx(0.15, abs=0.01)
    shown = found.shown_regions
    assert np.mean([each.image_id is None for each in shown]) == pytest.approx(0.8, abs=0.02)
    kept = [
        (each.image_id, each.region) == ("image0", place)
        for place, each in zip(found.region_places, shown, strict=True)
    ]
    assert np.mean(kept) == pytest.approx(0.1, abs=0.02)
    replaced = [each.image_id for each, same in zip(shown, kept, strict=True) if each.image_id is not None and not same]
    assert set(replaced) == set(IMAGES), "of any image of the split, the own one too"


def test_some_images_have_regions_that_change_places(wordpiece: Any) -> None:
    moved = 0
    for seed in range(400):
        found = hidden(seen([], wordpiece, 20), seed, regions=0.3, shuffled_images=0.5)
        plain = hidden(seen([], wordpiece, 20), seed, regions=0.3)
        extra = len(plain.region_places)
        assert found.region_places[:extra] == plain.region_places
        of_others = [shown.region for shown in found.shown_regions[extra:]]
        assert sorted(of_others) == sorted(found.region_places[extra:]), "among themselves"
        moved += len(of_others) > 0
    assert moved / 400 == pytest.approx(0.5, abs=0.1)


def test_spans_hide_whole_words_in_runs(wordpiece: Any) -> None:
    cat, ending = wordpiece.ids("cats")
    text = [wordpiece.cls_id, *[cat, ending] * 20, wordpiece.sep_id]
    lengths: list[int] = []
    for seed in range(300):
        found = hidden(seen(text, wordpiece), seed, SpanMasking, words=0.3)
        words = sorted({(place - 1) // 2 for place in found.word_places.tolist()})
        assert len(found.word_places) == 2 * len(words), "all pieces of a word"
        assert len(words) == 6
        lengths.append(sum(1 for word in words if word - 1 in words))
    assert np.mean(lengths) > 2, "most words lie beside another one"


def test_the_share_of_words_in_spans_is_rounded_up_or_down_by_chance(wordpiece: Any) -> None:
    text = [wordpiece.cls_id, *range(6, 9), wordpiece.sep_id]
    counts = [len(hidden(seen(text, wordpiece), seed, SpanMasking, words=0.15).word_places) for seed in range(500)]
    assert np.mean(counts) == pytest.approx(0.15 * 3, abs=0.08)
    assert hidden(seen([wordpiece.cls_id, wordpiece.sep_id], wordpiece), 0, SpanMasking).word_places.tolist() == []


# --- a whole batch ---


def unmasked(task: Any, encoding: Encoding, vocabulary: Any, epoch: int = 0) -> Unmasked[Any]:
    count, width = encoding.region_features.shape[0], encoding.region_features.shape[2]
    regions = make_regions([f"train{row % 4}" for row in range(count)], width, encoding.region_mask.shape[1])
    examples = [Example(str(row), "cats", (f"train{row % 4}",)) for row in range(count)]
    pairs = [ShownPair("cats", f"train{row % 4}", matched=row % 3 != 1) for row in range(count)]
    rngs = [example_rng(0, epoch, row) for row in range(count)]
    read = lambda ids: make_regions(ids, width, encoding.region_mask.shape[1])  # noqa: E731
    return Unmasked(examples, pairs, regions, encoding, rngs, vocabulary, read_regions=read)


@pytest.fixture
def task(make_task: Any, make_dataset: Any) -> Any:
    made = make_task(masking=HALF)
    made.start_training(make_dataset("train"), 0)
    return made


def test_a_batch_has_its_targets_where_it_was_masked(task: Any, make_encoding: Any, wordpiece: Any) -> None:
    encoding = make_encoding(["a red cat", "the blue dogs on the left ."] * 10)
    features = encoding.region_features.clone()

    shown, targets = task.mask(unmasked(task, encoding, wordpiece))

    rows, places = targets["word_rows"], targets["word_places"]
    assert torch.equal(targets["word_labels"], encoding.token_ids[rows, places])
    matched = targets["matched"]
    assert matched[rows].all(), "only pairs that match are learned from"
    rows, places = targets["region_rows"], targets["region_places"]
    assert torch.equal(targets["region_features"], features[rows, places])
    assert matched[rows].all()
    assert encoding.region_mask[rows, places].all()
    untouched = torch.ones_like(encoding.region_mask)
    untouched[rows, places] = False
    untouched &= matched[:, None]
    assert torch.equal(shown.region_features[untouched], features[untouched])
    zeros = (shown.region_features[rows, places] == 0).all(dim=1)
    assert 0.5 < zeros.float().mean() < 1
    assert torch.equal(shown.boxes, encoding.boxes)
    assert torch.equal(encoding.region_features, features), "what the encoder made stays as it is"


def test_what_a_pair_looks_like_depends_on_its_generator_alone(task: Any, make_encoding: Any, wordpiece: Any) -> None:
    texts = ["a red cat", "the blue dogs on the left .", "cats"]
    encoding = make_encoding(texts)
    (whole, _), (again, _) = (task.mask(unmasked(task, encoding, wordpiece)) for _ in range(2))
    other, _ = task.mask(unmasked(task, encoding, wordpiece, epoch=1))
    assert torch.equal(whole.token_ids, again.token_ids)
    assert torch.equal(whole.region_features, again.region_features)
    assert not torch.equal(whole.region_features, other.region_features)

    alone, _ = task.mask(unmasked(task, make_encoding(texts[:1]), wordpiece))
    length = alone.token_ids.shape[1]
    assert torch.equal(alone.token_ids[0], whole.token_ids[0, :length])
    assert torch.equal(alone.region_features[0], whole.region_features[0])


def test_nothing_masked_is_no_error(make_task: Any, make_dataset: Any, make_encoding: Any, wordpiece: Any) -> None:
    made = make_task(masking={"words": 0, "regions": 0})
    made.start_training(make_dataset("train"), 0)
    encoding = make_encoding(["a red cat", "cats"])
    shown, targets = made.mask(unmasked(made, encoding, wordpiece))
    assert torch.equal(shown.token_ids, encoding.token_ids)
    assert targets["region_features"].shape == (0, 6)
