"""Features of another kind than the weights were trained on stop a run, unless the experiment accepts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy_world as toy
from toy_runs import experiment

from vlrun.cli import main
from vlrun.data.feature_check import FeatureCheck, check_cut_regions
from vlrun.data.splits import read_task_data
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.weight_files import read_imported, write_imported
from vlrun.engine.weight_summary import inspect_weights
from vlrun.errors import DataError
from vlrun.features.origin import FeatureOrigin, differences
from vlrun.features.store import RegionFeatureStore
from vlrun.features.writer import write_store
from vlrun.plugins.manager import Plugins
from vlrun.reporting.run_record import read_header
from vlrun.runs.export import export_weights
from vlrun.runs.run import run_experiment

HTML = "reporters=[{name: jsonl}, {name: html}]"
ACCEPT = "tasks.0.dataset.accept_other_features=true"


def with_store(world: Path, **origin: str) -> None:
    images = [toy.image_features(index) for index in range(toy.NUM_IMAGES)]  # of three regions each
    write_store(world / "data" / "toys.lmdb", images, overwrite=True, **origin)


def with_weights(world: Path, **metadata: Any) -> str:
    backbone = toy.ToyBackbone(toy.ToyConfig(name="toy"))
    path = world / "data" / "toy.safetensors"
    write_imported(path, backbone.state_dict(), {"backbone": "toy", **metadata}, [])
    return f"backbone.weights={path.name}"


def header(run: Any) -> list[str]:
    return [value for label, value in read_header(run.folder) if label == "data"]


@pytest.mark.parametrize(
    ("made", "regions", "wanted", "expected"),
    [
        (FeatureOrigin("a"), (36, 36), FeatureOrigin("a"), []),
        (FeatureOrigin("a"), (36, 36), FeatureOrigin("b"), ["extractor: a, not b"]),
        (FeatureOrigin("a"), (36, 36), FeatureOrigin("a", boxes="36"), []),
        (FeatureOrigin("a"), (12, 90), FeatureOrigin("a", boxes="36"), ["boxes: 12-90, not 36"]),
        (FeatureOrigin("a"), (12, 36), FeatureOrigin("a", boxes="36"), []),  # tiny pictures have few regions
        (FeatureOrigin("a", boxes="36"), (12, 20), FeatureOrigin("a", boxes="36"), []),
        (FeatureOrigin("a"), (12, 20), FeatureOrigin("a", boxes="36"), ["boxes: 12-20, not 36"]),
        (FeatureOrigin("a", boxes="10-100"), (36, 36), FeatureOrigin("a", boxes="36"), ["boxes: 10-100, not 36"]),
        (FeatureOrigin("a"), (4, 90), FeatureOrigin("a", boxes="10-100"), []),
        (FeatureOrigin("a", boxes="36"), (36, 36), FeatureOrigin("a", boxes="10-100"), []),
        (FeatureOrigin("a"), (4, 8), FeatureOrigin("a", boxes="10-100"), ["boxes: 4-8, not 10-100"]),
        (FeatureOrigin("a"), (12, 90), FeatureOrigin("a", boxes="10-100"), []),
        (FeatureOrigin("a", "1"), (36, 36), FeatureOrigin("a", "2"), ["extractor_weights: 1, not 2"]),
        (FeatureOrigin("a", "1"), (36, 36), FeatureOrigin("a"), []),
        (FeatureOrigin(), (36, 36), FeatureOrigin("b", boxes="10"), None),
        (FeatureOrigin("a"), (36, 36), FeatureOrigin(), None),
        (FeatureOrigin("some words"), (36, 36), FeatureOrigin("b"), None),
        (FeatureOrigin("a: some words"), (36, 36), FeatureOrigin("a"), []),
        (FeatureOrigin("a: some words"), (36, 36), FeatureOrigin("a: other words"), []),
        (FeatureOrigin("a: some words"), (36, 36), FeatureOrigin("b"), ["extractor: a, not b"]),
        (FeatureOrigin("some words: more"), (36, 36), FeatureOrigin("b"), None),
        (FeatureOrigin("some words"), (36, 36), FeatureOrigin("some words"), []),
    ],
)
def test_only_what_both_sides_say_is_compared(
    made: FeatureOrigin, regions: tuple[int, int], wanted: FeatureOrigin, expected: list[str] | None
) -> None:
    assert differences(made, regions, wanted) == expected


@pytest.mark.parametrize("boxes", ["many", "0", "100-10", "10-"])
def test_a_number_of_boxes_is_one_number_or_two(boxes: str) -> None:
    with pytest.raises(ValueError, match="write 36 or 10-100"):
        FeatureOrigin("a", boxes=boxes)


def test_features_of_another_detector_stop_the_run(world: Path, plugins: Plugins) -> None:
    with_store(world, extractor="hf-frcnn", extractor_weights="v1")
    weights = with_weights(world, features={"extractor": "bua-caffe", "boxes": "36"})
    with pytest.raises(DataError) as caught:
        run_experiment(experiment(world, plugins, weights), plugins=plugins)
    assert caught.value.exit_status == 5
    first, second, *others, remedy = caught.value.problems
    assert first.endswith("toys.lmdb are hf-frcnn, weights v1, 3 boxes")
    assert "toy.safetensors was trained on bua-caffe, 36 boxes" in second
    assert others == ["    other extractor: hf-frcnn, not bua-caffe", "    other boxes: 3, not 36"]
    assert "dataset.accept_other_features=true" in remedy


def test_another_number_of_boxes_stops_the_run_too(world: Path, plugins: Plugins) -> None:
    with_store(world, extractor="bua-caffe")
    weights = with_weights(world, features={"extractor": "bua-caffe", "boxes": "36"})
    with pytest.raises(DataError, match="are bua-caffe, 3 boxes"):
        run_experiment(experiment(world, plugins, weights), plugins=plugins)


def test_what_is_accepted_is_in_header_scores_and_report(
    world: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    with_store(world, extractor="hf-frcnn")
    weights = with_weights(world, features={"extractor": "bua-caffe", "boxes": "36"})
    run = run_experiment(experiment(world, plugins, weights, ACCEPT, HTML), plugins=plugins)
    mark = "trained on bua-caffe, 36 boxes; these are hf-frcnn, 3 boxes"
    assert {row.score.protocol["weights made for other features"] for row in run.rows} == {mark}
    assert "other features: match: hf-frcnn, 3 boxes; the weights were trained on bua-caffe, 36 boxes" in header(run)
    assert main(["report", str(run.folder)]) == 0
    assert "weights made for other features" in capsys.readouterr().out
    assert "weights made for other features" in (run.folder / "report.html").read_text()


def test_features_of_the_right_kind_are_named_and_no_score_says_more(world: Path, plugins: Plugins) -> None:
    with_store(world, extractor="bua-caffe")
    weights = with_weights(world, features={"extractor": "bua-caffe", "boxes": "3"})
    run = run_experiment(experiment(world, plugins, weights, HTML), plugins=plugins)
    assert "features: match: bua-caffe, 3 boxes, as the weights were trained on" in header(run)
    assert not any("weights made for other features" in row.score.protocol for row in run.rows)


@pytest.mark.parametrize(
    ("store", "features"),
    [({}, {"extractor": "bua-caffe"}), ({"extractor": "bua-caffe"}, None)],
    ids=["store", "weights"],
)
def test_what_is_unknown_is_said_in_the_header_only(
    world: Path, plugins: Plugins, store: dict[str, str], features: dict[str, str] | None
) -> None:
    with_store(world, **store)
    weights = with_weights(world, **({"features": features} if features else {}))
    run = run_experiment(experiment(world, plugins, weights, HTML), plugins=plugins)
    assert any(note.startswith("features not compared: match: ") and "not stated" in note for note in header(run))
    assert not any("weights made for other features" in row.score.protocol for row in run.rows)


def test_weights_of_a_run_record_the_features_that_it_saw(world: Path, plugins: Plugins) -> None:
    with_store(world, extractor="bua-caffe", boxes="3")
    loaded = experiment(world, plugins, "train.epochs=1")
    run = run_experiment(loaded, plugins=plugins)
    out = world / "data" / "own.safetensors"
    export_weights(RunFolder(run.folder), loaded, out, plugins)
    assert FeatureOrigin.from_json(read_imported(out)[1]["features"]) == FeatureOrigin("bua-caffe", boxes="3")
    assert "features: bua-caffe, 3 boxes" in inspect_weights(out, {}).lines()
    with_store(world, extractor="vinvl")
    with pytest.raises(DataError, match="trained on bua-caffe, 3 boxes"):
        run_experiment(experiment(world, plugins, f"backbone.weights={out.name}"), plugins=plugins)


def test_a_store_says_what_made_it(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_store(world, extractor="bua-caffe", extractor_weights="d9a1", boxes="10-100")
    store = world / "data" / "toys.lmdb"
    manifest = RegionFeatureStore(store).manifest
    assert (manifest.extractor, manifest.extractor_weights, manifest.boxes) == ("bua-caffe", "d9a1", "10-100")
    assert main(["features", "inspect", str(store)]) == 0
    assert "bua-caffe, weights d9a1, 10 to 100 boxes" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["rosita", "lxmert", "lxmert-s", "hf-lxmert"])
def test_the_authors_weights_are_known_to_be_made_for_36_boxes_of_bottom_up_attention(name: str) -> None:
    pytest.importorskip("vlrun_rosita")
    pytest.importorskip("vlrun_lxmert_s")
    from vlrun.plugins.manager import create_plugins

    assert create_plugins().weight_formats()[name].features == FeatureOrigin("bua-caffe", boxes="36")


@pytest.mark.parametrize(
    ("num_regions", "regions"),
    [
        (2, "the first 2 of up to 3 of an image"),
        (3, "all of an image, up to 3"),
        (36, "all of an image, up to 3"),
    ],
)
def test_regions_that_the_model_does_not_see_are_in_header_and_scores(
    world: Path, plugins: Plugins, num_regions: int, regions: str
) -> None:
    config = experiment(world, plugins).tasks[0]
    data = read_task_data(config, ["train"], RegionFeatureStore(config.dataset.features), plugins)
    found = check_cut_regions([data], num_regions)
    assert found.marks == {"match": {"regions": regions}}
    said = ["regions cut: match: the model sees the first 2 of up to 3 of an image (backbone.num_regions)"]
    assert found.notes == (said if num_regions == 2 else [])


def test_findings_about_features_add_up() -> None:
    both = FeatureCheck({"a": {"x": "1"}}, ["one"]) + FeatureCheck({"a": {"y": "2"}, "b": {"y": "3"}}, ["two"])
    assert (both.marks, both.notes) == ({"a": {"x": "1", "y": "2"}, "b": {"y": "3"}}, ["one", "two"])
