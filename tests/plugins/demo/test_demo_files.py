"""What the demo generates: the same bytes each time, whoever writes them, and images that no two sets share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vlrun import DemoImageRequest, PluginError
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun_demo.provider import DemoWorld
from vlrun_demo.world import IMAGE_SETS, images


def write_some(folder: Path) -> None:
    """Features, pictures and texts, the latter by all plugins that are installed."""
    world = DemoWorld()
    for name, source in create_plugins().demo_sources().items():
        chosen = source.images_of(world)
        texts = folder / name
        texts.mkdir()
        source.write(texts, chosen if source.images else chosen[::20])
    for name, write in {"features": world.write_features, "pictures": world.write_pictures}.items():
        (folder / name).mkdir()
        write(images()[::50], folder / name)


def test_two_processes_write_the_same(tmp_path: Path) -> None:
    """Their strings hash differently."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    write_some(one)
    code = Path(__file__).read_text() + f"\nwrite_some(Path({str(two)!r}))\n"
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    names = sorted(file.relative_to(one) for file in one.rglob("*") if file.is_file())

    assert len(names) > 40
    assert names == sorted(file.relative_to(two) for file in two.rglob("*") if file.is_file())
    assert [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()] == []


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return create_plugins()


def test_images_of_all_sets_have_ids_of_their_own(plugins: Plugins) -> None:
    """Those that the world makes for plugins, too."""
    sets = {name: images(name) for name in IMAGE_SETS}
    for source in plugins.demo_sources().values():
        sets.setdefault(source.image_set, list(source.images_of(DemoWorld())))
    everything = [image for of_set in sets.values() for image in of_set]

    assert sets.keys() > set(IMAGE_SETS)
    assert len({image.number for image in everything}) == len(everything) == len({image.id for image in everything})


@pytest.mark.parametrize("dataset", ["vqav2", "gqa", "nlvr2"])
def test_every_image_of_a_dataset_has_features(
    dataset: str, plugins: Plugins, demo_files: Callable[[str], Path], tmp_path: Path
) -> None:
    """Their names, as the annotations spell them; rows are made for the images of the set."""
    builders = plugins.find("dataset", dataset).builders
    out = tmp_path / "out"
    next(builder for builder in builders if builder.source == "official").build(demo_files(dataset), out)
    rows = [json.loads(line) for path in out.glob("*.jsonl") for line in path.read_text().splitlines()]
    named = {name for row in rows for name in row.get("images", [row.get("image")])}

    assert named
    assert named <= {image.id for image in plugins.demo_sources()[dataset].images_of(DemoWorld())}


BALL = ("ball", {"colour": "red", "size": "small", "pattern": "plain"})


def test_an_image_that_is_asked_for_shows_what_is_asked_for() -> None:
    request = DemoImageRequest(77, "mine-77", "train", "mine", [BALL, BALL], "sky")
    (image,) = DemoWorld().make_images([request])

    assert (image.number, image.id, image.split, image.part) == (77, "mine-77", "train", "mine")
    assert [(thing.name, thing.attributes) for thing in image.objects] == [BALL, BALL]
    assert image.background == "sky"
    assert image.objects == DemoWorld().make_images([request])[0].objects


@pytest.mark.parametrize(
    ("objects", "background", "message"),
    [
        ([("whale", BALL[1])], "sky", "mine-77: demo data 'world' has no .*whale"),
        ([("ball", {"colour": "red"})], "sky", "mine-77: demo data 'world' has no .*its things have .*pattern"),
        ([BALL], "sea", "mine-77: background sea is none of white, grey, sand, sky"),
    ],
    ids=["kind", "attributes", "background"],
)
def test_what_the_world_does_not_know_is_refused(
    objects: list[tuple[str, dict[str, str]]], background: str, message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        DemoWorld().make_images([DemoImageRequest(77, "mine-77", "train", "mine", objects, background)])


def test_registering_imports_little() -> None:
    code = "import sys; from vlrun_demo.plugin import vlrun_demo_data as hook; hook(); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert not {"numpy", "PIL", "tokenizers"} & set(shown.stdout.split())
