"""With the numbers that the original drew, the task makes of its files what the original made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosita_goldens import Goldens
from rosita_world import World

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def world(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.made(Goldens(golden / "rosita" / "pretrain_data"), tmp_path_factory.mktemp("rosita"))


@pytest.fixture(scope="module")
def traces(world: World) -> dict[str, Any]:
    return dict(np.load(world.goldens.folder / "trace.npz"))


def trace_of(traces: dict[str, Any], item: int, run: int) -> dict[str, Any]:
    return {name.removeprefix("draw/"): values[item, run] for name, values in traces.items() if name.startswith("draw")}


def dense(targets: Any, kind: str, shape: tuple[int, ...], values: str | None = None) -> Any:
    """What is guessed, as the original has it: an array over all places."""
    found = np.zeros(shape)
    labels = 1 if values is None else targets[values].numpy()
    found[targets[f"{kind}_rows"].numpy(), targets[f"{kind}_places"].numpy()] = labels
    return found


def test_the_imported_items_are_those_that_the_original_reads(world: World) -> None:
    rows = world.goldens.items
    assert len(world.dataset) == len(rows)
    for item, row in enumerate(rows):
        example = world.dataset[item]
        assert example.text.split() == row["words"]
        assert list(example.target.lemmas) == row["lemmas"]
        assert example.target.graph == world.goldens.graph(item)
        image = world.goldens.content["images"][row["image"]]
        prefix = {"conceptual": "conceptual_", "sbu": "sbu_"}.get(image["img_src"], "")
        assert example.image_ids == (prefix + Path(image["img_file"]).stem,)
    assert len({*world.dataset.image_ids()}) == len(world.goldens.content["images"])


def test_every_output_of_every_trace_is_that_of_the_original(world: World, traces: dict[str, Any]) -> None:
    task, exact = world.task(), world.goldens.exact
    items, runs = traces["draw/match"].shape
    for run in range(runs):
        encoding, targets, pairs = world.replayed(
            task, [trace_of(traces, item, run) for item in range(items)], [*range(items)]
        )
        out = {name.removeprefix("out/"): values[:, run] for name, values in traces.items() if name.startswith("out/")}
        length = encoding.token_ids.shape[1]
        assert not out["text_ids"][:, length:].any(), "only padding"
        np.testing.assert_array_equal(encoding.token_ids.numpy(), out["text_ids"][:, :length])
        np.testing.assert_array_equal(encoding.text_mask.numpy(), out["text_mask"][:, :length])
        width = encoding.region_mask.shape[1]
        assert not out["imgfeat_mask"][:, width:].any()
        np.testing.assert_array_equal(encoding.region_mask.numpy(), out["imgfeat_mask"][:, :width])
        np.testing.assert_array_equal(encoding.region_features.numpy(), out["imgfeat"][:, :width])
        np.testing.assert_allclose(encoding.boxes.numpy(), out["bbox"][:, :width], atol=1e-5)
        np.testing.assert_array_equal(targets["matched"].numpy(), out["itm_label"] == 1)

        weights = out["text_outside_weight"] * out["text_mlm_valid"][:, None]
        shape = (items, length)
        np.testing.assert_array_equal(dense(targets, "word", shape), weights[:, :length])
        labels = np.where(weights > 0, out["text_mlm_label_ids"], 0)[:, :length]
        np.testing.assert_array_equal(dense(targets, "word", shape, "word_labels"), labels)

        weights, shape = (out["img_outside_weight"] * out["img_feat_valid"][:, None])[:, :width], (items, width)
        np.testing.assert_array_equal(dense(targets, "region", shape), weights)
        shown = exact["image_of_item"][traces["draw/shown_item"][:, run]]
        rows, places = (targets[f"region_{name}"].numpy() for name in ("rows", "places"))
        wanted = exact["image/features"][shown[rows], places]
        np.testing.assert_array_equal(targets["region_features"].numpy(), wanted)
        for ours, theirs in (("class", "obj"), ("attribute", "attr")):
            switched = weights * out[f"img_{theirs}_valid"][:, None]
            label = np.where(switched > 0, out[f"img_{theirs}_label"][:, :width], 0)
            np.testing.assert_array_equal(dense(targets, "class", shape, f"{ours}_labels"), label)
            weight = switched * out[f"img_{theirs}_weight"][:, :width]
            np.testing.assert_array_equal(dense(targets, "class", shape, f"{ours}_weights"), weight)
            assert int(targets[f"{ours}_count"]) == np.count_nonzero(weight)
        assert int(targets["feature_count"]) == np.count_nonzero(weights)
        assert [pair.matched for pair in pairs] == targets["matched"].tolist()


def every(traces: dict[str, Any]) -> Iterator[dict[str, Any]]:
    items, runs = traces["draw/match"].shape
    return (trace_of(traces, item, run) for item in range(items) for run in range(runs))


def test_the_traces_have_all_that_can_become_of_a_pair(traces: dict[str, Any]) -> None:
    """Else the test above says less than it seems to."""
    drawn = [*every(traces)]
    assert {(each["match"] > 0.5, each["side"] < 0.5) for each in drawn} == {(a, b) for a in (0, 1) for b in (0, 1)}
    for name in ("text_random_id", "region_random_item"):
        assert sum((each[name] >= 0).any() for each in drawn) > 10
