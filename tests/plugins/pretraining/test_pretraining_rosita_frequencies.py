"""How often the task does what: which pairs match, what is hidden, what is shown there, and where that comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rosita_goldens import Goldens
from rosita_world import World

from vlrun.seeds import example_rng
from vlrun_pretraining.draws import Draws
from vlrun_pretraining.rule import SeenPair

pytestmark = pytest.mark.golden

RUNS, PAIRS = 200, 400
BLOCKS = 16
"""Of the vocabulary, so that of each enough is drawn."""


@pytest.fixture(scope="module")
def world(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.made(Goldens(golden / "rosita" / "pretrain_data"), tmp_path_factory.mktemp("rosita"))


def scores(ours: NDArray[Any], of_ours: Any, theirs: NDArray[Any], of_theirs: Any) -> NDArray[Any]:
    """By how many standard errors shares differ, where ten hits and ten misses of ours are expected, or more."""
    of_ours, of_theirs = (np.broadcast_to(np.asarray(total, float), ours.shape) for total in (of_ours, of_theirs))
    assert not ours[theirs == 0].any(), "what the original never does"
    share = (ours + theirs) / np.maximum(of_ours + of_theirs, 1)
    counts = (of_ours * share >= 10) & (of_ours * (1 - share) >= 10) & (of_theirs > 0)
    ours, theirs, of_ours, of_theirs, share = (each[counts] for each in (ours, theirs, of_ours, of_theirs, share))
    error = np.sqrt(share * (1 - share) * (1 / of_ours + 1 / of_theirs))
    return np.asarray((ours / of_ours - theirs / of_theirs) / error)


def hidden_in(world: World, task: Any, item: int, run: int) -> tuple[SeenPair, Any]:
    example = world.dataset[item]
    (pair,) = task.pairs(example, example_rng(3, run, item))
    items = task._items_with(example.image_ids[0])
    ids = world.goldens.exact["text/ids"][item]
    seen = SeenPair(example, pair, ids, world.store[pair.image_id], world.encoder.wordpiece, items)
    return seen, task.rule.hide(seen, Draws(example_rng(4, run, item)))


def check(found: list[NDArray[Any]], least: int) -> None:
    """Of 1,000 cells one lies 5.5 standard errors away by chance alone in 1 of 26,000 seeds; the seed is fixed."""
    together = np.concatenate([cells.ravel() for cells in found])
    assert len(together) >= least
    assert np.abs(together).max() < 5.5
    assert together.std() == pytest.approx(1, abs=0.15)


def test_what_is_shown_is_as_frequent_as_in_the_original(world: World) -> None:
    """Of pairs that match: something hidden on either side, what becomes of it, and where what replaces it is from.

    A piece or region that is replaced by itself looks like one that is kept, so these two are counted together.
    """
    task = world.task(mismatch={"probability": 0.0})
    file, exact = dict(np.load(world.goldens.folder / "frequency.npz")), world.goldens.exact
    wordpiece = world.encoder.wordpiece
    shapes = {"text": exact["text/ids"].shape, "region": (len(exact["text/ids"]), exact["image/iou"].shape[1])}
    masked = {side: np.zeros(shape) for side, shape in shapes.items()}
    selected = {side: np.zeros(shape) for side, shape in shapes.items()}
    some = {side: np.zeros(shape[0]) for side, shape in shapes.items()}
    blocks, places = np.zeros(BLOCKS), {prefixed(row): row["index"] for row in world.goldens.content["images"]}
    sources = np.zeros((len(places), shapes["region"][1]))
    for item, run in np.ndindex(shapes["text"][0], RUNS):
        seen, hidden = hidden_in(world, task, item, run)
        some["text"][item] += len(hidden.word_places) > 0
        some["region"][item] += len(hidden.region_places) > 0
        np.add.at(selected["text"][item], hidden.word_places, 1)
        shown, is_masked = hidden.shown_ids, hidden.shown_ids == wordpiece.mask_id
        np.add.at(masked["text"][item], hidden.word_places[is_masked], 1)
        replaced = ~is_masked & (shown != seen.token_ids[hidden.word_places])
        np.add.at(blocks, shown[replaced] * BLOCKS // wordpiece.size, 1)
        for place, (image, region) in zip(hidden.region_places, hidden.shown_regions, strict=True):
            selected["region"][item, place] += 1
            masked["region"][item, place] += image is None
            if image is not None and region != place:  # what is kept has its own number, what is drawn a large one
                sources[places[image], region % int(exact["image/num_boxes"][places[image]])] += 1
    found = []
    for side in ("text", "region"):
        theirs, runs = file[f"matched/{side}/number"], file["matched/n"]
        found.append(scores(some[side], RUNS, file[f"matched/n_{side}"] - theirs[:, 0], runs))
        of = file[f"matched/{side}/selected"]
        found.append(scores(masked[side], selected[side], file[f"matched/{side}/became_mask"], of))
    by_entry = file["matched/text/random_id"]
    theirs = np.bincount(np.arange(len(by_entry)) * BLOCKS // len(by_entry), by_entry, BLOCKS)
    found.append(scores(blocks, blocks.sum(), theirs, theirs.sum()))
    by_image = np.zeros_like(sources)
    np.add.at(by_image, exact["image_of_item"], file["matched/region/random_source"])
    assert not sources[by_image == 0].any()
    found.append(scores(sources, sources.sum(), by_image, by_image.sum()))
    check(found, 150)


def test_which_image_is_shown_is_as_frequent_as_in_the_original(world: World) -> None:
    task, file = world.task(), dict(np.load(world.goldens.folder / "frequency.npz"))
    places = {prefixed(row): row["index"] for row in world.goldens.content["images"]}
    items = len(world.dataset)
    matched, shown = np.zeros(items), np.zeros((items, len(places)))
    for item, run in np.ndindex(items, PAIRS):
        (pair,) = task.pairs(world.dataset[item], example_rng(5, run, item))
        matched[item] += pair.matched
        shown[item, places[pair.image_id]] += not pair.matched
    theirs = file["free/shown_when_mismatched"]
    found = [scores(matched, PAIRS, file["free/match_side"][:, 1].sum(1), file["free/n"])]
    found.append(scores(shown, shown.sum(1, keepdims=True), theirs, theirs.sum(1, keepdims=True)))
    check(found, 200)


def prefixed(row: dict[str, Any]) -> str:
    """Our id of an image."""
    return {"conceptual": "conceptual_", "sbu": "sbu_"}.get(row["img_src"], "") + Path(row["img_file"]).stem
