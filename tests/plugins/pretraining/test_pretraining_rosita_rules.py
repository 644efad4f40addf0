"""ROSITA's rules of masking equal the original's, number for number, on constant draws and on recorded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosita_goldens import Goldens

from vlrun_pretraining.rosita.affinity import affinity, overlaps
from vlrun_pretraining.rosita.graph import word_chances
from vlrun_pretraining.rosita.priors import Priors
from vlrun_pretraining.rosita.rates import Rates
from vlrun_pretraining.rosita.selection import select_pieces, select_regions
from vlrun_pretraining.rosita.word_vectors import WordVectors

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def goldens(golden: Path) -> Goldens:
    return Goldens(golden / "rosita" / "pretrain_data")


def pieces(goldens: Goldens, item: int, draws: dict[str, Any], chances: Any = None) -> Any:
    """Places of the pieces that are selected, of all positions."""
    places, word_of_piece = goldens.pieces(item)
    chances = goldens.chances(item) if chances is None else chances
    graph, words = goldens.graph(item), len(goldens.items[item]["lemmas"])
    drawn = {
        "of_pieces": draws["piece"][places],
        "of_objects": draws["object"][: len(graph.objects)],
        "of_words": draws["word"][:words],
    }
    selected = np.zeros(goldens.exact["text/ids"].shape[1], bool)
    selected[places] = select_pieces(word_of_piece, graph.object_words, chances, goldens.rates, **drawn)
    return selected


def regions(goldens: Goldens, image: int, means: Any, draws: dict[str, Any]) -> Any:
    names = {
        "by_chance": "region",
        "by_affinity": "affinity",
        "spread_by_chance": "region_spread",
        "spread_by_affinity": "affinity_spread",
    }
    drawn = {name: draws[key][: len(means)] for name, key in names.items()}
    return select_regions(means, goldens.overlaps[image], goldens.rates, **drawn)


def test_word_chances_equal_the_original(goldens: Goldens) -> None:
    wanted, of_objects = (goldens.exact[f"word_probability{name}"] for name in ("", "_by_object"))
    for item in range(len(goldens.items)):
        chances = goldens.chances(item)
        objects, words = chances.shape
        np.testing.assert_allclose(chances, of_objects[item, :objects, :words], atol=1e-5)
        np.testing.assert_allclose(chances.max(axis=0, initial=0), wanted[item, :words], atol=1e-5)
        assert not of_objects[item, objects:].any()


def test_affinities_equal_the_original(goldens: Goldens) -> None:
    wanted, means = (np.nan_to_num(goldens.exact[name]) for name in ("affinity", "affinity_mean"))
    for item in range(len(goldens.items)):
        places, word_of_piece = goldens.pieces(item)
        for image in range(len(goldens.boxes)):
            words, found = goldens.word_affinity(item, image)
            expected = np.zeros_like(wanted[item, image])
            for word, of_regions in zip(words, found, strict=True):
                expected[places[word_of_piece == word], : found.shape[1]] = of_regions
            np.testing.assert_allclose(expected, wanted[item, image], atol=1e-5)
            mean = goldens.mean_affinity(item, image)
            np.testing.assert_allclose(mean, means[item, image, : len(mean)], atol=1e-5)


def test_overlaps_equal_the_original(goldens: Goldens) -> None:
    for image, wanted in enumerate(goldens.exact["image/iou"]):
        found = goldens.overlaps[image]
        np.testing.assert_allclose(found, wanted[: len(found), : len(found)], atol=1e-5)


def test_the_formulas_hold_on_free_vectors(goldens: Goldens) -> None:
    file = np.load(goldens.folder.parent / "pretrain.npz")
    np.testing.assert_allclose(overlaps(file["grain/boxes"]), file["grain/iou"], atol=1e-6)
    vectors = np.concatenate([file["grain/text_vec"], file["grain/label_vec"]])
    table = WordVectors({str(row): row for row in range(len(vectors))}, vectors)
    unit = table.of(map(str, range(len(vectors))))
    count = len(file["grain/text_vec"])
    found = affinity(unit[:count], unit[count:], goldens.rates.least_affinity)
    np.testing.assert_allclose(found, file["grain/affinity_thresholded"], atol=1e-5)


def test_constant_draws_select_what_the_original_selects(goldens: Goldens) -> None:
    constants = goldens.exact["constant/u"]
    for item in range(len(goldens.items)):
        image = int(goldens.exact["image_of_item"][item])
        means, chances = goldens.mean_affinity(item, image), goldens.chances(item)
        for place, constant in enumerate(constants):
            draws = {name: np.full(100, constant) for name in ("piece", "object", "word")}
            wanted = goldens.exact["constant/text_selected"][item, place]
            np.testing.assert_array_equal(pieces(goldens, item, draws, chances), wanted)
            names = ("region", "affinity", "region_spread", "affinity_spread")
            found = regions(goldens, image, means, {name: np.full(100, constant) for name in names})
            wanted = goldens.exact["constant/region_selected"][item, place]
            np.testing.assert_array_equal(found, wanted[: len(found)])


def test_recorded_draws_select_what_the_original_selected(goldens: Goldens) -> None:
    trace = {name: values for name, values in np.load(goldens.folder / "trace.npz").items() if name.startswith("draw/")}
    trace = {name.removeprefix("draw/"): values for name, values in trace.items()}
    count = 0
    for item, run in np.ndindex(trace["match"].shape):
        draws = {name: values[item, run] for name, values in trace.items()}
        if draws["side"] < goldens.rates.text_side:
            selected, changed = pieces(goldens, item, draws), draws["text_change"]
        else:
            image = int(goldens.exact["image_of_item"][draws["shown_item"]])
            selected = regions(goldens, image, goldens.mean_affinity(item, image), draws)
            changed = draws["region_change"][: len(selected)]
        # The original draws what becomes of a place for those that are selected, and for no others.
        np.testing.assert_array_equal(selected, ~np.isnan(changed))
        count += 1
    assert count == trace["match"].size


RUNS = 1500


def test_words_and_regions_are_selected_as_often_as_by_the_original(goldens: Goldens) -> None:
    """Alone and in pairs, of 20,000 runs of the original per item and ours; the seed is fixed.

    A cell counts where its standard error is that of a normal distribution, so where ten hits and ten misses are
    expected. Of about 2,000 cells none may lie 5.5 standard errors away: by chance alone, one would in 1 of 13,000
    seeds.
    """
    file, rng, scores = dict(np.load(goldens.folder / "frequency.npz")), np.random.default_rng(12), []
    for item in range(len(goldens.items)):
        image = int(goldens.exact["image_of_item"][item])
        means, chances = goldens.mean_affinity(item, image), goldens.chances(item)
        texts, images = [], []
        for _ in range(RUNS):
            draws = {name: rng.random(64) for name in ("piece", "object", "word")}
            texts.append(pieces(goldens, item, draws, chances))
            draws = {name: rng.random(8) for name in ("region", "affinity", "region_spread", "affinity_spread")}
            images.append(regions(goldens, image, means, draws))
        for side, selected in (("text", np.array(texts, float)), ("region", np.array(images, float))):
            ours, width = selected.T @ selected, selected.shape[1]
            theirs, runs = file[f"matched/{side}/pair"][item, :width, :width], file[f"matched/n_{side}"][item]
            share = (ours + theirs) / (RUNS + runs)
            error = np.sqrt(share * (1 - share) * (1 / RUNS + 1 / runs))
            counts = np.triu((RUNS * share >= 10) & (RUNS * (1 - share) >= 10))
            assert not ours[theirs == 0].any(), "never selected by the original"
            scores.append(((ours / RUNS - theirs / runs) / np.where(error > 0, error, 1))[counts])
    found = np.concatenate(scores)
    assert len(found) > 1500
    assert np.abs(found).max() < 5.5
    assert found.std() == pytest.approx(1, abs=0.1)


def test_a_phrase_without_prior_counts_as_never_seen() -> None:
    lemmas = ["red", "dog", "chase", "cat"]
    entries = ([(1,)], [((1,), (0,))], [((1,), (2,), (3,))])
    graph, missing = Priors({}, {"dog": {"chase cat": 0.01}}).graph(entries, lemmas)
    np.testing.assert_allclose(word_chances(graph, lemmas, Rates()), [[0.2, 0, 0.4, 0]], rtol=1e-6)
    assert missing == ["attr_count of 'dog' has no 'red'"], "cat is no object of the graph, so nothing of it is read"
