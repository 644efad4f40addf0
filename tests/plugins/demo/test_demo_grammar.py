"""What the parser of the demo's captions finds in them."""

from __future__ import annotations

import json
from pathlib import Path

from vlrun_demo.captions import captions
from vlrun_demo.grammar import parsed
from vlrun_demo.official_rosita import write_rosita_pretraining
from vlrun_demo.scene import COLOURS, make_sparse_scene
from vlrun_demo.world import PRETRAINING, images
from vlrun_pretraining.build_rosita import build_rosita


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
        scene = make_sparse_scene(number)
        for caption in captions(scene):
            found = parsed(caption.text)
            assert found.words == caption.text.replace(",", "").split()
            assert len(found.lemmas) == len(found.words)
            named = len(caption.claims) - any(about.relation for about, _ in caption.claims)
            assert len(found.objects) == named + (caption.background is not None), caption.text
            colours = [what for _, (what,) in found.attributes if found.lemmas[what] in COLOURS]
            assert len(colours) <= len(found.objects) + 1


def test_what_is_held_out_of_rosita_s_sets_is_of_val(tmp_path: Path) -> None:
    chosen = images(PRETRAINING)
    write_rosita_pretraining(tmp_path / "source", chosen)
    build_rosita(tmp_path / "source", tmp_path / "built")
    split_of = {image.stem: image.split for image in chosen}
    held_out = [json.loads(line)["image"] for line in (tmp_path / "built/heldout.jsonl").read_text().splitlines()]
    others = [
        json.loads(line)["image"]
        for path in (tmp_path / "built").glob("pt-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {split_of[image] for image in held_out} == {"val"}
    assert {split_of[image] for image in others} == {"train"}
