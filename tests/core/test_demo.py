"""Preparing demo data: real builders, whole parts or none, one process at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy_demo import NUM_IMAGES, Painter, Seen, ToyPlugins, ToyProvider, builder_of, source

from vlrun import DataError, PluginError, RegionFeatureStore
from vlrun.blocks.object_tags import read_class_names
from vlrun.demo.data import prepare_demo


@pytest.fixture
def provider(tmp_path: Path) -> ToyProvider:
    return ToyProvider(tmp_path / "calls")


def test_annotations_and_features_come_out_of_the_builders_of_real_data(provider: ToyProvider, tmp_path: Path) -> None:
    data = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)

    assert (data.datasets["animals"].annotations / "train.jsonl").read_text() == '{"from": "animals"}\n'
    store = RegionFeatureStore(data.datasets["animals"].features)
    assert len(store) == NUM_IMAGES
    assert (data.files.region_feature_size, data.files.num_regions) == (3, 2)
    assert data.files.vocabulary.read_text() == "[PAD]\n"
    assert data.datasets["animals"].pictures.is_dir()
    assert data.overrides == {"train.epochs": 8, "train.learning_rate": 5e-4}


def test_the_classes_of_regions_are_named_where_the_world_names_them(provider: ToyProvider, tmp_path: Path) -> None:
    assert prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path).files.class_names is None
    provider.class_names = ("lion", "polar bear")

    names = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path).files.class_names

    assert names is not None
    assert read_class_names(names) == ["lion", "polar bear"]


def test_everything_lies_in_one_folder_named_after_provider_and_version(provider: ToyProvider, tmp_path: Path) -> None:
    data = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)

    assert data.root.parent == tmp_path / "vlrun"
    assert data.root.name.startswith("demo-toys-7-")
    places = [data.files.vocabulary, *data.datasets["animals"].__dict__.values()]
    assert all(place.is_relative_to(data.root) for place in places)


def test_finished_parts_are_reused_without_a_word(provider: ToyProvider, tmp_path: Path) -> None:
    first = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)
    calls, said = provider.calls(), []
    again = prepare_demo(ToyPlugins(provider), ["animals"], said.append, cache=tmp_path)

    assert provider.calls() == calls
    assert said == []
    assert (again.root, again.datasets) == (first.root, first.datasets)


def test_another_dataset_over_the_same_images_shares_their_features(provider: ToyProvider, tmp_path: Path) -> None:
    prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)
    data = prepare_demo(ToyPlugins(provider), ["animals", "plants"], cache=tmp_path)

    assert data.datasets["plants"].features == data.datasets["animals"].features
    assert data.overrides == {"train.epochs": 8, "train.learning_rate": 1e-4}, "the longest and the slowest of them"
    assert provider.calls().count("features:zoo") == 1
    assert provider.calls()[-1] == "annotations:plants"


def test_a_dataset_without_demo_data_is_named_with_what_there_is(provider: ToyProvider, tmp_path: Path) -> None:
    with pytest.raises(PluginError) as error:
        prepare_demo(ToyPlugins(provider), ["animals", "stones"], cache=tmp_path)

    assert str(error.value) == (
        "there is no demo data for dataset 'stones'\n"
        "there is for: animals, plants; plugins add theirs on the hook vlrun_demo_sources"
    )
    assert not (tmp_path / "vlrun").exists()


def test_regions_are_detected_in_pictures_where_that_is_wanted(tmp_path: Path) -> None:
    provider = Seen(tmp_path / "calls")
    computed = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)
    data = prepare_demo(ToyPlugins(provider), ["animals", "plants"], cache=tmp_path, from_pictures=True)

    store = RegionFeatureStore(data.datasets["animals"].features)
    assert store.manifest.extractor == "toy eyes"
    assert [store[f"img{index}"].features[0, 0] for index in range(NUM_IMAGES)] == list(range(NUM_IMAGES))
    assert data.datasets["plants"].features == store.path
    assert RegionFeatureStore(computed.datasets["animals"].features).manifest.extractor == "demo data 'toys'"
    assert data.datasets["animals"].annotations == computed.datasets["animals"].annotations
    assert provider.calls().count("all-pictures:zoo") == 1


def test_a_picture_that_the_detector_cannot_use_ends_the_preparation(tmp_path: Path) -> None:
    class Blurred(Seen):
        def write_all_pictures(self, images: Sequence[Any], folder: Path) -> None:
            (folder / "a.png").write_text("1")
            (folder / "b.png").write_text("damaged")

    with pytest.raises(DataError, match=r"b\.png: damaged"):
        prepare_demo(ToyPlugins(Blurred(tmp_path / "calls")), ["animals"], cache=tmp_path, from_pictures=True)
    (root,) = (tmp_path / "vlrun").iterdir()
    (detected,) = root.glob("detected-*")
    assert list(detected.iterdir()) == []


def test_demo_data_without_a_detector_cannot_start_from_pictures(provider: ToyProvider, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="'toys' has no detector that could start from its pictures; use --demo"):
        prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path, from_pictures=True)


def test_datasets_of_two_providers_do_not_go_together(tmp_path: Path) -> None:
    plugins = ToyPlugins(ToyProvider(tmp_path), sources=[source("animals"), source("plants", provider="sea")])

    with pytest.raises(PluginError, match="are of different worlds: 'animals' of 'toys', 'plants' of 'sea'"):
        prepare_demo(plugins, ["animals", "plants"], cache=tmp_path)


def test_what_two_plugins_offer_is_said_to_clash(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="demo source 'clashing' is missing or clashes"):
        prepare_demo(ToyPlugins(ToyProvider(tmp_path)), ["clashing"], cache=tmp_path)


def test_a_world_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="demo data of animals: demo data 'toys' is missing"):
        prepare_demo(ToyPlugins(), ["animals"], cache=tmp_path)


def test_images_that_the_world_does_not_have_are_named(tmp_path: Path) -> None:
    plugins = ToyPlugins(ToyProvider(tmp_path), sources=[source("animals", image_set="sea")])
    with pytest.raises(PluginError, match=r"about images 'sea', which demo data 'toys' does not have \(found: zoo\)"):
        prepare_demo(plugins, ["animals"], cache=tmp_path)


def test_a_plugin_brings_images_of_its_own(tmp_path: Path) -> None:
    provider = Painter(tmp_path / "calls")
    own = {"image_set": "sea", "images": "toy_demo:ask_for_whales"}
    plugins = ToyPlugins(provider, sources=[source("animals", **own), source("plants", **own), source("stones")])
    data = prepare_demo(plugins, ["animals", "plants", "stones"], cache=tmp_path).datasets

    assert sorted(provider.calls()) == sorted(
        ["vocabulary", "made:whales", *(f"annotations:{name}" for name in data), "features:whales", "features:zoo"]
    )
    assert data["animals"].features == data["plants"].features != data["stones"].features
    assert data["animals"].features.name.startswith("sea-"), "it changes with the code that asks for the images"


def test_one_name_for_two_sets_of_images_is_refused(tmp_path: Path) -> None:
    sources = [
        source(name, image_set="sea", images=f"toy_demo:ask_for_{what}")
        for name, what in {"animals": "whales", "plants": "sharks"}.items()
    ]
    with pytest.raises(PluginError, match="demo data of 'animals' and 'plants' mean different images by 'sea'"):
        prepare_demo(ToyPlugins(Painter(tmp_path), sources=sources), ["animals", "plants"], cache=tmp_path)


def test_a_world_that_makes_no_images_says_so(provider: ToyProvider, tmp_path: Path) -> None:
    plugins = ToyPlugins(provider, sources=[source("animals", image_set="sea", images="toy_demo:ask_for_whales")])
    with pytest.raises(PluginError, match="demo data 'toys' makes no images for others"):
        prepare_demo(plugins, ["animals"], cache=tmp_path)


def test_a_missing_builder_is_named(provider: ToyProvider, tmp_path: Path) -> None:
    plugins = ToyPlugins(provider, builders=(builder_of("build", source="rosita"),))

    with pytest.raises(PluginError, match=r"data of 'animals' need its builder 'official' \(found: rosita\)"):
        prepare_demo(plugins, ["animals"], cache=tmp_path)


def test_a_missing_feature_format_is_named(provider: ToyProvider, tmp_path: Path) -> None:
    provider.feature_format = "hologram"

    with pytest.raises(PluginError, match=r"needs the feature format 'hologram' \(found: npz, "):
        prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(provider: ToyProvider, tmp_path: Path) -> None:
    (tmp_path / "vlrun").write_text("in the way")

    with pytest.raises(DataError, match=r"cannot write the demo data: .*VLRUN_CACHE names another folder"):
        prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)


def test_a_failed_part_leaves_nothing_behind(provider: ToyProvider, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="broken"):
        prepare_demo(ToyPlugins(provider, builders=(builder_of("fail"),)), ["animals"], cache=tmp_path)

    (root,) = (tmp_path / "vlrun").iterdir()
    assert list((root / "annotations").iterdir()) == []


class _Slow(ToyProvider):
    """Stops half way through a part and waits for the end."""

    def write_features(self, images: Sequence[Any], folder: Path) -> None:
        (folder / "img0.jpg.npz").write_bytes(b"half of a file")
        self.note("half")
        if self.calls().count("half") == 1:
            time.sleep(60)
        (folder / "img0.jpg.npz").unlink()
        super().write_features(images, folder)


def _prepare(provider: ToyProvider, cache: Path) -> None:
    prepare_demo(ToyPlugins(provider), ["animals"], cache=cache)


def test_a_kill_half_way_leaves_no_part_that_looks_whole(tmp_path: Path) -> None:
    provider = _Slow(tmp_path / "calls")
    process = multiprocessing.get_context("fork").Process(target=_prepare, args=(provider, tmp_path))
    process.start()
    _wait_for(lambda: "half" in provider.calls())
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (root,) = (tmp_path / "vlrun").iterdir()
    (built,) = (root / "annotations").iterdir()
    assert built.name.startswith("animals-")
    assert [path.name for path in (root / "sources").iterdir() if not path.name.startswith(".")] == [built.name]

    data = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)

    assert len(RegionFeatureStore(data.datasets["animals"].features)) == NUM_IMAGES
    assert provider.calls().count("annotations:animals") == 1
    assert not [path for path in root.rglob(".*") if path.is_dir()]


def test_of_processes_that_prepare_at_once_one_works(provider: ToyProvider, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_prepare, args=(provider, tmp_path)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert sorted(provider.calls()) == ["annotations:animals", "features:zoo", "vocabulary"]


def _wait_for(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_demo_says_at_its_start_how_long_it_takes(
    provider: ToyProvider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlrun.cli import run

    dataset = SimpleNamespace(demo_dataset=None, name="animals")
    experiment: Any = SimpleNamespace(tasks=[SimpleNamespace(dataset=dataset)])
    plugins: Any = ToyPlugins(provider)
    run._say_duration(experiment, plugins)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(provider, "duration", "an hour", raising=False)
    run._say_duration(experiment, plugins)
    assert capsys.readouterr().err == "demo: an hour\n"
