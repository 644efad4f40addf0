"""How often what is drawn: LXMERT's rules (lxmert_pretrain.py, lxmert_data.py) and those that we chose for LXMERT-S.

Counts are compared with what they should be, in standard errors, and none of about 170 may lie further away than
``MOST``. Each has at least 50 hits and 50 misses expected, so that the normal distribution nearly holds: right rules
fail with about one seed in 5,000. The seeds are fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from vlrun import Example, RegionFeatures, Unmasked
from vlrun.seeds import example_rng
from vlrun.testing import make_regions
from vlrun_pretraining.config import MaskingOptions
from vlrun_pretraining.dataset import Caption
from vlrun_pretraining.draws import Draws
from vlrun_pretraining.items import Items
from vlrun_pretraining.random_masking import RandomMasking, SpanMasking
from vlrun_pretraining.rule import Hidden, SeenPair, ShownPair

MOST = 5.0
RATE, BLANKED, REPLACED, KEPT = 0.15, 0.8, 0.1, 0.1
PIECES, REGIONS, RUNS = 18, 36, 3000
OWN = 7
"""The token of every piece."""
IMAGES = ["own", "own", "own", "second", "second", "third"]
"""The image of each item; an item is drawn, so images come in this proportion."""

Shares = Mapping[Any, float]


def distances(counts: Mapping[Any, float], runs: int, shares: Shares) -> list[float]:
    """How many standard errors each count lies from its share of all runs."""
    assert all(min(runs * share, runs * (1 - share)) >= 50 for share in shares.values()), "too few runs"
    return [abs(counts[key] - runs * share) / np.sqrt(runs * share * (1 - share)) for key, share in shares.items()]


def uniform(values: Iterable[Any]) -> Shares:
    values = list(values)
    return dict.fromkeys(values, 1 / len(values))


def seen(wordpiece: Any, pieces: int, regions: int, others: Sequence[str] = IMAGES) -> SeenPair:
    token_ids = np.array([wordpiece.cls_id, *[OWN] * pieces, wordpiece.sep_id])
    features = RegionFeatures("own", np.ones((regions, 2)), np.ones((regions, 4), np.float32), 9, 9)
    items = Items("train", others, lambda item: "a text")
    return SeenPair(Example("1", "a", ("own",)), ShownPair("a", "own"), token_ids, features, wordpiece, items)


def hidden(pair: SeenPair, runs: int = RUNS, **options: Any) -> Iterator[Hidden]:
    rule = (SpanMasking if options.get("name") == "spans" else RandomMasking)(MaskingOptions(**options))
    return (rule.hide(pair, Draws(example_rng(1, 0, run))) for run in range(runs))


def what_is_shown(wordpiece: Any) -> Shares:
    """Any entry of the vocabulary replaces, [MASK] and the own one too."""
    anything = dict.fromkeys(range(wordpiece.size), REPLACED / wordpiece.size)
    return {
        **anything,
        wordpiece.mask_id: BLANKED + anything[wordpiece.mask_id],
        OWN: KEPT + anything[OWN],
    }


# --- LXMERT ---


def test_pieces_are_selected_one_by_one_and_become_what_lxmert_shows(wordpiece: Any) -> None:
    places: Counter[Any] = Counter()
    shown: Counter[int] = Counter()
    for found in hidden(seen(wordpiece, PIECES, 0), words=RATE, regions=0):
        own = found.word_places.tolist()
        places.update([*own, *((place, place + 1) for place in own if place + 1 in own)])
        shown.update(found.shown_ids.tolist())
    alone = dict.fromkeys(range(1, PIECES + 1), RATE)
    together = {(place, place + 1): RATE**2 for place in range(1, PIECES)}
    assert max(distances(places, RUNS, {**alone, **together})) < MOST
    assert max(distances(shown, shown.total(), what_is_shown(wordpiece))) < MOST


def test_regions_are_selected_one_by_one_and_become_what_lxmert_shows(wordpiece: Any) -> None:
    """A replacing region is any of the image of any item, an image of three items thus three times as often."""
    places: Counter[int] = Counter()
    fates: Counter[str] = Counter()
    images: Counter[str | None] = Counter()
    numbers: Counter[int] = Counter()
    for found in hidden(seen(wordpiece, 0, REGIONS), words=0, regions=RATE):
        places.update(found.region_places)
        for place, (image, region) in zip(found.region_places, found.shown_regions, strict=True):
            if image is None:
                fates["zeros"] += 1
            elif (image, region) == ("own", place):
                fates["kept"] += 1
            else:
                fates["replaced"] += 1
                images[image] += 1
                numbers[region % REGIONS] += 1
    assert max(distances(places, RUNS, dict.fromkeys(range(REGIONS), RATE))) < MOST
    shares = {"zeros": BLANKED, "replaced": REPLACED, "kept": KEPT}
    assert max(distances(fates, fates.total(), shares)) < MOST
    assert max(distances(images, images.total(), {"own": 3 / 6, "second": 2 / 6, "third": 1 / 6})) < MOST
    regions = {tuple(range(first, first + 6)): 6 / REGIONS for first in range(0, REGIONS, 6)}
    assert max(distances({six: sum(map(numbers.get, six)) for six in regions}, numbers.total(), regions)) < MOST  # type: ignore[misc]


@pytest.mark.parametrize("side", ["text", "image"])
def test_half_of_the_pairs_have_another_item_with_another_image(side: str, make_task: Any, make_dataset: Any) -> None:
    """Any of the 9 items of the 3 other images."""
    task, train = make_task(mismatch={"probability": 0.5, "side": side}), make_dataset("train")
    task.start_training(train, 0)
    pairs = [task.pairs(train[0], example_rng(2, run, 0))[0] for run in range(RUNS)]
    matched = Counter(pair.matched for pair in pairs)
    assert max(distances(matched, RUNS, {True: 0.5})) < MOST
    others = Counter((pair.text, pair.image_id) for pair in pairs if not pair.matched)
    texts, images = [example.text for example in train][:3], [f"train{number}" for number in (1, 2, 3)]
    shares = (
        uniform((text, "train0") for text in texts)
        if side == "text"
        else uniform((texts[0], image) for image in images)
    )
    assert set(others) == set(shares)
    assert max(distances(others, matched[False], shares)) < MOST


def test_answers_are_drawn_in_proportion_to_their_scores(drawn_answers: Any) -> None:
    """Those that the table does not have have no part in it; a mismatched pair has no answer."""
    scores = {"yes": 0.9, "no": 0.3, "red": 0.3, "unheard of": 1.0}
    assert max(distances(drawn_answers(scores), RUNS, {0: 0.6, 1: 0.2, 3: 0.2})) < MOST
    assert set(drawn_answers(scores, 100, matched=False)) == {-1}
    assert set(drawn_answers({"unheard of": 1.0}, 100)) == {-1}


# --- our choices for LXMERT-S ---

LONGEST, GEOMETRIC = 10, 0.2
WORDS, WANTED = 30_000, 60
"""So long a text that spans hardly ever touch."""


def lengths() -> list[float]:
    """The chances of 1 to ``LONGEST`` words: geometric, and the rest at the longest."""
    chances = [GEOMETRIC * (1 - GEOMETRIC) ** (length - 1) for length in range(1, LONGEST)]
    return [*chances, 1 - sum(chances)]


def spans_of(wanted: int) -> dict[int, float]:
    """How many spans of each length are expected, the last one being cut to what is left."""
    expected = [dict.fromkeys(range(1, LONGEST + 1), 0.0)]
    for left in range(1, wanted + 1):
        found = dict.fromkeys(range(1, LONGEST + 1), 0.0)
        for length, chance in enumerate(lengths(), 1):
            cut = min(length, left)
            found[cut] += chance
            for other, count in expected[left - cut].items():
                found[other] += chance * count
        expected.append(found)
    return expected[wanted]


def test_spans_have_geometric_lengths_begin_anywhere_and_have_one_fate(wordpiece: Any) -> None:
    texts, total = 150, 0
    by_length: list[Counter[int]] = []
    shown: Counter[int] = Counter()
    starts: Counter[int] = Counter()
    for found in hidden(seen(wordpiece, WORDS, 0), texts, name="spans", words=WANTED / WORDS, regions=0):
        assert len(found.word_places) == WANTED
        runs = [
            [index for index, _ in run]
            for _, run in groupby(enumerate(found.word_places.tolist()), lambda each: each[1] - each[0])
        ]
        by_length.append(Counter(map(len, runs)))
        for run in runs:
            whole = set(found.shown_ids[run].tolist())
            replaced = len(whole) > 1 or not whole <= {wordpiece.mask_id, OWN}
            shown.update(["replaced" if replaced else whole.pop()] if len(run) > 2 else [])
            starts[int(found.word_places[run[0]]) * 10 // (WORDS + 10)] += 1
            total += 1
    counts = np.array([[of_text[length] for length in range(1, LONGEST + 1)] for of_text in by_length], float)
    errors = counts.std(axis=0, ddof=1) / np.sqrt(texts)
    expected = [*spans_of(WANTED).values()]
    assert np.abs((counts.mean(axis=0) - expected) / errors).max() < MOST
    shares = {wordpiece.mask_id: BLANKED, OWN: KEPT, "replaced": REPLACED}
    assert max(distances(shown, shown.total(), shares)) < MOST, "a whole span has one fate"
    assert max(distances(starts, total, uniform(range(10)))) < MOST


def test_spans_cover_the_share_of_the_words_on_average(wordpiece: Any) -> None:
    """0.15 of 12 words are 1.8: two words in four texts of five, else one."""
    covered = Counter(len(found.word_places) for found in hidden(seen(wordpiece, 12, 0), name="spans", words=RATE))
    assert set(covered) == {1, 2}
    assert max(distances(covered, RUNS, {2: 0.8})) < MOST


def test_in_a_third_of_the_images_regions_that_are_not_hidden_change_places(wordpiece: Any) -> None:
    """An order of all orders alike leaves one region where it is, on average, with a variance of one."""
    third, moved, stayed = 1 / 3, 0, []
    places: Counter[int] = Counter()
    pair = seen(wordpiece, 0, REGIONS)
    plain = hidden(pair, words=0, regions=RATE)
    for found, own in zip(hidden(pair, words=0, regions=RATE, shuffled_images=third), plain, strict=True):
        more = found.region_places[len(own.region_places) :]
        shown = [region for _, region in found.shown_regions[len(own.region_places) :]]
        assert not set(more) & set(own.region_places)
        assert sorted(more) == sorted(shown)
        moved += len(more) > 0
        places.update(more)
        stayed += [sum(place == region for place, region in zip(more, shown, strict=True))] if len(more) > 1 else []
    some = third * (1 - (1 - RATE * (1 - RATE)) ** REGIONS)
    assert max(distances({"moved": moved}, RUNS, {"moved": some})) < MOST
    assert max(distances(places, RUNS, dict.fromkeys(range(REGIONS), third * RATE * (1 - RATE)))) < MOST
    assert abs(np.mean(stayed) - 1) * np.sqrt(len(stayed)) < MOST


def test_hard_mismatches_are_any_of_the_nearest_images(make_task: Any, make_dataset: Any) -> None:
    task, train = make_task(mismatch={"probability": 1.0, "nearest": 2}), make_dataset("train")
    task.start_training(train, 0)
    drawn = Counter(task.pairs(train[0], example_rng(2, run, 0))[0].image_id for run in range(RUNS))
    assert len(drawn) == 2
    assert max(distances(drawn, RUNS, uniform(drawn))) < MOST


@pytest.fixture
def drawn_answers(make_task: Any, make_dataset: Any, make_encoding: Any, wordpiece: Any, answers: Any) -> Any:
    """``drawn_answers(scores, runs=RUNS, matched=True)``: how often each place in the table is drawn; -1 is none."""
    task = make_task(losses=["answers"], answers=answers, masking={"words": 0, "regions": 0})
    task.start_training(make_dataset("train"), 0)
    rows = 100
    encoding = make_encoding(["cats"] * rows)
    regions = make_regions(["train0"] * rows, encoding.region_features.shape[2], encoding.region_mask.shape[1])

    def drawn(scores: Mapping[str, float], runs: int = RUNS, *, matched: bool = True) -> Counter[int]:
        found: Counter[int] = Counter()
        for epoch in range(runs // rows):
            examples = [Example(str(row), "cats", ("train0",), Caption(scores)) for row in range(rows)]
            pairs = [ShownPair("cats", "train0", matched=matched)] * rows
            rngs = [example_rng(0, epoch, row) for row in range(rows)]
            _, targets = task.mask(Unmasked(examples, pairs, regions, encoding, rngs, wordpiece, read_regions=None))
            found.update(targets["answers"].tolist())
        return found

    return drawn
