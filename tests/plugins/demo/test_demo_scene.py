from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from vlrun import DemoImage, DemoRelation, canonical_image_id
from vlrun_demo.outlines import outline, unit_outline
from vlrun_demo.picture import draw, write_pictures
from vlrun_demo.provider import DemoWorld
from vlrun_demo.scene import FIGURES, KINDS, Scene, Thing, area, intersection, make_scene
from vlrun_demo.world import IMAGE_SETS, images


def test_a_scene_depends_on_its_image_id_alone() -> None:
    make_scene(5)
    first = make_scene(1009, cast="figures")
    make_scene(6)

    assert make_scene(1009, cast="figures") == first
    assert make_scene(1010, cast="figures") != first


def test_a_scene_is_the_same_in_another_process() -> None:
    code = "from vlrun_demo.scene import make_scene; print(make_scene(1009))"
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == repr(make_scene(1009))


def test_scenes_hold_five_to_nine_things_inside_the_picture(scenes: list[Scene]) -> None:
    assert {len(scene.things) for scene in scenes} <= set(range(5, 10))
    for scene in scenes:
        for x1, y1, x2, y2 in (thing.box for thing in scene.things):
            assert 0 <= x1 < x2 <= scene.width
            assert 0 <= y1 < y2 <= scene.height


def test_things_overlap_a_little_at_most(scenes: list[Scene]) -> None:
    pairs = [(a.box, b.box) for scene in scenes for i, a in enumerate(scene.things) for b in scene.things[:i]]

    assert max(intersection(a, b) / min(area(a), area(b)) for a, b in pairs) <= 0.1


def test_sizes_differ_clearly(scenes: list[Scene]) -> None:
    shares: dict[str, list[float]] = {"small": [], "medium": [], "large": []}
    for scene in scenes:
        for thing in scene.things:
            shares[thing.size].append((thing.box[3] - thing.box[1]) / min(scene.width, scene.height))

    assert max(shares["small"]) * 1.4 < min(shares["medium"])
    assert max(shares["medium"]) * 1.3 < min(shares["large"])


def test_no_attribute_alone_tells_most_things_apart(scenes: list[Scene]) -> None:
    """Distractors: for most things, every single attribute is shared with another thing of the scene."""
    shared = []
    for scene in scenes:
        counts = [Counter(values) for values in zip(*(thing.attributes for thing in scene.things), strict=True)]
        shared += [
            all(count[value] > 1 for count, value in zip(counts, thing.attributes, strict=True))
            for thing in scene.things
        ]

    assert sum(shared) / len(shared) > 0.5


def test_pictures_have_several_shapes(scenes: list[Scene]) -> None:
    sizes = {(scene.width, scene.height) for scene in scenes}

    assert {(640, 480), (480, 640)} <= sizes
    assert len(sizes) >= 4


def test_splits_share_no_image() -> None:
    ids = [image.number for image in images()]
    names = [image.file_name for image in images()]

    assert len(set(ids)) == len(set(names)) == len(ids) == 1120
    assert names[0] == "COCO_train2014_000000001009.png"


@pytest.mark.parametrize(("split", "most_are_figures"), [("testA", True), ("testB", False)])
def test_test_splits_differ_in_what_they_show(split: str, most_are_figures: bool) -> None:
    things = [thing for image in images() if image.split == split for thing in image.scene.things]
    share = sum(thing.kind in FIGURES for thing in things) / len(things)

    assert (share > 0.7) if most_are_figures else (share < 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_outline_touches_all_sides_of_its_box(kind: str) -> None:
    xs, ys = zip(*unit_outline(kind), strict=True)

    assert (min(xs), max(xs)) == pytest.approx((0, 1), abs=0.02)
    assert (min(ys), max(ys)) == pytest.approx((0, 1), abs=0.02)


def test_kinds_look_different() -> None:
    outlines = {kind: unit_outline(kind) for kind in KINDS}

    assert len(set(outlines.values())) == len(KINDS) - 1  # a ring is a ball with a hole
    assert outlines["ring"] == outlines["ball"]


def test_a_picture_shows_each_thing_where_it_is(make_thing: Callable[..., Thing]) -> None:
    things = (make_thing(100, 100, colour="red"), make_thing(300, 200, colour="blue", kind="box"))
    picture = draw(Scene(1, 400, 300, "white", things))

    assert picture.size == (400, 300)
    red, blue, ground = (picture.getpixel(place) for place in ((100, 100), (300, 200), (200, 50)))
    assert red[0] > 150 > red[2]
    assert blue[2] > 150 > blue[0]
    assert ground == (250, 250, 250)


def test_a_ring_has_a_hole_and_patterns_have_two_colours(make_thing: Callable[..., Thing]) -> None:
    ring, stripes = make_thing(100, 100, kind="ring"), make_thing(300, 100, kind="box", pattern="striped")
    picture = draw(Scene(1, 400, 200, "white", (ring, stripes)))

    assert picture.getpixel((100, 100)) == (250, 250, 250)
    assert len({picture.getpixel((300, y)) for y in range(80, 120)}) >= 2


def test_pictures_are_png_files_of_every_split_named_as_in_the_annotations(folder, scenes: list[Scene]) -> None:
    write_pictures(images(), folder, per_split=2)
    by_name = {image.file_name: image for image in images()}

    assert {by_name[path.name].split for path in folder.iterdir()} == {"train", "val", "testA", "testB"}
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in folder.iterdir())
    assert len(list(folder.iterdir())) == 8


@pytest.mark.parametrize("image_set", IMAGE_SETS)
def test_any_plugin_can_read_what_an_image_shows(image_set: str, known_words: set[str]) -> None:
    """The view that writers of other plugins have agrees with the scene, and tells all words that the world knows."""
    chosen: Sequence[DemoImage] = DemoWorld().images(image_set)[::150]
    assert len(chosen) > 1
    for image, whole in zip(chosen, images(image_set)[::150], strict=True):
        scene = whole.scene
        assert image.id == canonical_image_id(image.file_name) == whole.id
        assert (image.width, image.height, image.background) == (scene.width, scene.height, scene.background)
        assert [found.box for found in image.objects] == [thing.box for thing in scene.things]
        for found, thing in zip(image.objects, scene.things, strict=True):
            assert (found.name, *found.attributes.values()) == thing.attributes
            assert found.outline == outline(thing)
            assert {found.name, *found.attributes.values()} <= known_words
    relations = [(image, relation) for image in chosen for relation in image.relations]
    assert relations or image_set == "detector"
    for image, relation in relations:
        subject, other = image.objects[relation.subject], image.objects[relation.object]
        opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
        back = DemoRelation(relation.object, opposite.get(relation.name, relation.name), relation.subject)
        assert back in image.relations
        if relation.name == "left of":
            assert subject.box[0] + subject.box[2] < other.box[0] + other.box[2]
