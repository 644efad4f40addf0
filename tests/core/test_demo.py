"""Preparing demo data: real builders, whole parts or none, one process at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy_detector import ToyDetector

from vlrun import (
    Builder,
    BuildReport,
    DataError,
    DemoProvider,
    DetectorConfig,
    Entry,
    FeatureFormat,
    PluginError,
    RegionFeatureStore,
)
from vlrun.demo.data import cache_folder, prepare_demo
from vlrun.interfaces.demo_provider import DemoSource
from vlrun.plugins.builtin import vlrun_feature_formats

NUM_IMAGES = 4


class ToyProvider(DemoProvider):
    """Two datasets over the same images; writes down what it is asked for."""

    name = "toys"
    version = "7"
    datasets: Mapping[str, DemoSource] = {
        "animals": DemoSource("official", "zoo"),
        "plants": DemoSource("official", "zoo"),
    }
    feature_format = "npz"
    region_feature_size = 3
    num_regions = 2

    def __init__(self, log: Path) -> None:
        self.log = log

    def calls(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def note(self, call: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{call}\n")

    def write_vocabulary(self, path: Path) -> None:
        self.note("vocabulary")
        path.write_text("[PAD]\n")

    def write_annotations(self, dataset: str, folder: Path) -> None:
        self.note(f"annotations:{dataset}")
        (folder / "official.txt").write_text(f"{dataset}\n")

    def write_features(self, image_set: str, folder: Path) -> None:
        self.note(f"features:{image_set}")
        for index in range(NUM_IMAGES):
            boxes = np.array([[0, 0, 5, 5], [1, 1, 9, 9]], np.float32)
            np.savez(folder / f"img{index}.jpg.npz", x=np.ones((2, 3), np.float32), boxes=boxes, image_h=10, image_w=10)

    def overrides(self, datasets: Sequence[str]) -> Mapping[str, Any]:
        return {"train.epochs": len(datasets)}


class ToyPlugins:
    """As much of ``Plugins`` as preparing needs."""

    def __init__(self, *providers: DemoProvider, builders: tuple[Builder, ...] | None = None) -> None:
        self.providers = list(providers)
        self.builders = (builder_of("build"),) if builders is None else builders

    def find(self, kind: str, name: str) -> Entry:
        if kind == "detector":
            return Entry(name=name, summary="", config=f"{__name__}:Eyes", factory=f"{__name__}:look")
        assert kind == "dataset"
        return Entry(
            name=name, summary="", config="vlrun:DatasetConfig", factory="builtins:print", builders=self.builders
        )

    def demo_providers(self) -> list[DemoProvider]:
        return self.providers

    def feature_formats(self) -> dict[str, FeatureFormat]:
        return {found.name: found for found in vlrun_feature_formats()}


class Seen(ToyProvider):
    """It has a detector, and draws what that one reads: a number."""

    detector = "eyes"

    def write_all_pictures(self, image_set: str, folder: Path) -> None:
        self.note(f"all-pictures:{image_set}")
        for index in range(NUM_IMAGES):
            (folder / f"img{index}.png").write_text(str(index))


class Eyes(DetectorConfig):
    weights: Path = Path("none")


def look(config: Eyes) -> ToyDetector:
    return ToyDetector(config.name)


def build(source: Path, output: Path) -> BuildReport:
    (output / "train.jsonl").write_text(f'{{"from": "{(source / "official.txt").read_text().strip()}"}}\n')
    return BuildReport({"train": 1})


def fail(source: Path, output: Path) -> BuildReport:
    (output / "train.jsonl").write_text("half")
    raise DataError("broken")


def builder_of(function: str, source: str = "official") -> Builder:
    return Builder(source=source, summary="", function=f"{__name__}:{function}")


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
    assert provider.calls().count("features:zoo") == 1
    assert provider.calls()[-1] == "annotations:plants"


def test_a_new_version_starts_a_new_folder(provider: ToyProvider, tmp_path: Path) -> None:
    first = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)
    provider.version = "8"
    second = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)

    assert first.root != second.root
    assert first.root.is_dir()


def test_changed_code_starts_a_new_folder(
    provider: ToyProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "vlrun_made_up"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "words.txt").write_text("one")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("made-up", "vlrun_made_up.plugin", "vlrun")
    monkeypatch.setattr("vlrun.demo.data.entry_points", lambda group: [point])
    first = prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path)
    assert prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path).root == first.root
    (package / "words.txt").write_text("two")

    assert prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path).root != first.root


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"VLRUN_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b"),
        ({}, "/home/someone/.cache"),
    ],
    ids=["vlrun", "xdg", "home"],
)
def test_the_cache_lies_where_the_environment_says(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("VLRUN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert cache_folder() == Path(expected)


def test_a_dataset_without_demo_data_is_named_with_what_there_is(provider: ToyProvider, tmp_path: Path) -> None:
    with pytest.raises(PluginError) as error:
        prepare_demo(ToyPlugins(provider), ["animals", "stones"], cache=tmp_path)

    assert str(error.value) == (
        "there is no demo data for dataset 'stones'\ndemo data that is installed:\n    'toys' has animals, plants"
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
        def write_all_pictures(self, image_set: str, folder: Path) -> None:
            (folder / "a.png").write_text("1")
            (folder / "b.png").write_text("damaged")

    with pytest.raises(DataError, match=r"b\.png: damaged"):
        prepare_demo(ToyPlugins(Blurred(tmp_path / "calls")), ["animals"], cache=tmp_path, from_pictures=True)
    (root,) = (tmp_path / "vlrun").iterdir()
    assert list((root / "detected").iterdir()) == []


def test_demo_data_without_a_detector_cannot_start_from_pictures(provider: ToyProvider, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="'toys' has no detector that could start from its pictures; use --demo"):
        prepare_demo(ToyPlugins(provider), ["animals"], cache=tmp_path, from_pictures=True)


def test_datasets_of_two_providers_do_not_go_together(tmp_path: Path) -> None:
    one, two = ToyProvider(tmp_path / "one"), ToyProvider(tmp_path / "two")
    one.datasets, two.datasets = {"animals": DemoSource("official", "zoo")}, {"plants": DemoSource("official", "zoo")}

    with pytest.raises(PluginError, match="no demo data has all of these datasets: animals, plants"):
        prepare_demo(ToyPlugins(one, two), ["animals", "plants"], cache=tmp_path)


def test_without_demo_data_the_message_says_what_to_look_for(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="the hook vlrun_demo_data"):
        prepare_demo(ToyPlugins(), ["animals"], cache=tmp_path)


def test_a_missing_builder_is_named(provider: ToyProvider, tmp_path: Path) -> None:
    plugins = ToyPlugins(provider, builders=(builder_of("build", source="rosita"),))

    with pytest.raises(PluginError, match=r"needs the builder 'official' of dataset 'animals' \(found: rosita\)"):
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

    def write_features(self, image_set: str, folder: Path) -> None:
        (folder / "img0.jpg.npz").write_bytes(b"half of a file")
        self.note("half")
        if self.calls().count("half") == 1:
            time.sleep(60)
        (folder / "img0.jpg.npz").unlink()
        super().write_features(image_set, folder)


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
    assert (root / "annotations" / "animals").is_dir()
    assert [path.name for path in (root / "sources").iterdir() if not path.name.startswith(".")] == ["animals"]

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
