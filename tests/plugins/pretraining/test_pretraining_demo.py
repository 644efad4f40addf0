"""The demo's captions as files of pre-training: the originals' schema, and what a parser finds in the texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from vlrun.plugins.manager import create_plugins
from vlrun_demo.images import Image
from vlrun_demo.language import COLOURS, captions
from vlrun_demo.scene import make_sparse_scene
from vlrun_demo.world import PRETRAINING, images
from vlrun_pretraining.build_rosita import build_rosita
from vlrun_pretraining.demo.grammar import parsed

Row = dict[str, Any]


def official(folder: Path, part: str) -> Row:
    content: Row = json.loads((folder / f"captions_{part}.json").read_text())
    return content


def stem_of(row: Row, key: str) -> str:
    return Path(row[key]).stem


def test_cocos_own_files_have_the_keys_of_the_originals(demo_files: Callable[[str], Path], samples: Path) -> None:
    real = json.loads((samples / "coco_captions" / "captions_val2014_rows.json").read_text())[0]
    for part, count in (("train2014", 1500), ("val2014", 60)):
        content = official(demo_files("coco-captions"), part)
        assert content.keys() == {"info", "licenses", "images", "annotations"}
        assert len(content["images"]) == count
        assert all(stem_of(row, "file_name") == f"COCO_{part}_{row['id']:012d}" for row in content["images"])
        for row in content["annotations"]:
            assert {key: type(value) for key, value in row.items()} == {key: type(real[key]) for key in real}


def test_captions_of_an_image_lie_apart_in_cocos_own_files(demo_files: Callable[[str], Path]) -> None:
    for part, captions_in_all in (("train2014", 1500 * 5 + 1), ("val2014", 60 * 5 + 1)):
        content = official(demo_files("coco-captions"), part)
        owners = [row["image_id"] for row in content["annotations"]]
        assert len({row["id"] for row in content["annotations"]}) == len(owners) == captions_in_all
        assert set(owners) == {row["id"] for row in content["images"]}
        assert sum(one == next_one for one, next_one in pairwise(owners)) < len(owners) / 20
    numbers = [
        row["id"]
        for part in ("train2014", "val2014")
        for row in official(demo_files("coco-captions"), part)["annotations"]
    ]
    assert len(set(numbers)) == len(numbers)


def test_the_builder_of_cocos_own_files_reads_what_was_written(
    demo_files: Callable[[str], Path], tmp_path: Path
) -> None:
    (builder,) = (b for b in create_plugins().find("dataset", "coco-captions").builders if b.source == "official")
    report = builder.build(demo_files("coco-captions"), tmp_path)

    assert report.counts == {"train": 7501, "val": 301}
    for split, part in (("train", "train2014"), ("val", "val2014")):
        content = official(demo_files("coco-captions"), part)
        names = {row["id"]: stem_of(row, "file_name") for row in content["images"]}
        built = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        assert {(row["id"], row["text"], row["image"]) for row in built} == {
            (str(row["id"]), row["caption"], names[row["image_id"]]) for row in content["annotations"]
        }


def test_captions_are_typed_by_people(demo_files: Callable[[str], Path]) -> None:
    texts = [row["caption"] for row in official(demo_files("coco-captions"), "train2014")["annotations"]]

    assert 0.7 < sum(text[0].isupper() for text in texts) / len(texts) < 0.9
    assert 0.5 < sum(text.endswith(".") for text in texts) / len(texts) < 0.7


def test_names_in_cocos_own_files_are_those_of_the_images(demo_files: Callable[[str], Path]) -> None:
    rows = [row for part in ("train2014", "val2014") for row in official(demo_files("coco-captions"), part)["images"]]

    assert [row["file_name"] for row in rows] == [image.file_name for image in images(PRETRAINING)]


def said(text: str) -> tuple[list[str], list[str], list[str]]:
    """Objects, attributes and relations in words."""
    found = parsed(text)

    def words(numbers: list[int]) -> str:
        return " ".join(found.lemmas[number] for number in numbers)

    return (
        [words(each) for each in found.objects],
        [f"{words(of)}: {words(what)}" for of, what in found.attributes],
        [f"{words(subject)}, {words(what)}, {words(of)}" for subject, what, of in found.relations],
    )


def test_a_list_on_a_background() -> None:
    assert said("A striped blue ball and two red cats on a gray background.") == (
        ["ball", "cat", "background"],
        ["ball: striped", "ball: blue", "cat: two", "cat: red", "background: gray"],
        ["cat, on, background"],
    )


def test_relations_and_what_follows_a_noun() -> None:
    assert said("a purple kitty with dots is to the left of one hoop") == (
        ["kitty", "hoop"],
        ["kitty: purple", "kitty: dot", "hoop: one"],
        ["kitty, to the left of, hoop"],
    )


def test_the_words_are_those_of_the_text_and_every_noun_is_an_object() -> None:
    for number in range(0, 400, 7):
        for caption in captions(Image(number, "train", str(number), "train2014", make_sparse_scene)):
            found = parsed(caption.text)
            assert found.words == caption.text.replace(",", "").split()
            assert len(found.lemmas) == len(found.words)
            named = len(caption.claims) - any(about.relation for about, _ in caption.claims)
            assert len(found.objects) == named + (caption.background is not None), caption.text
            colours = [what for _, (what,) in found.attributes if found.lemmas[what] in COLOURS]
            assert len(colours) <= len(found.objects) + 1


def test_what_is_held_out_of_rosita_s_sets_is_of_val(demo_files: Callable[[str], Path], tmp_path: Path) -> None:
    build_rosita(demo_files("rosita-pretraining"), tmp_path / "built")
    split_of = {image.id: image.split for image in images(PRETRAINING)}
    held_out = [json.loads(line)["image"] for line in (tmp_path / "built/heldout.jsonl").read_text().splitlines()]
    others = [
        json.loads(line)["image"]
        for path in (tmp_path / "built").glob("pt-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {split_of[image] for image in held_out} == {"val"}
    assert {split_of[image] for image in others} == {"train"}
