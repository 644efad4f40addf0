"""Captions: true sentences that tell images apart, and image sets that share no image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from vlrun.blocks.wordpiece import WordPiece
from vlrun.data.identities import image_key
from vlrun.plugins.manager import create_plugins
from vlrun_demo.images import Image
from vlrun_demo.language import (
    COLOUR_WORDS,
    NOUNS,
    Caption,
    Description,
    captions,
    cleaned,
    plural_of,
    sentences,
    with_six_captions,
)
from vlrun_demo.picture import write_pictures
from vlrun_demo.provider import VOCABULARY, DemoWorld
from vlrun_demo.scene import Thing
from vlrun_demo.world import FLICKR, IMAGE_SETS, PRETRAINING, RETRIEVAL, images

CAPTION_SETS = (RETRIEVAL, FLICKR, PRETRAINING)


@pytest.fixture(scope="module")
def shown() -> Mapping[str, list[Image]]:
    """Image set -> images."""
    return {image_set: images(image_set) for image_set in CAPTION_SETS}


@pytest.mark.parametrize("image_set", CAPTION_SETS)
def test_captions_are_true(image_set: str, shown: Mapping[str, list[Image]]) -> None:
    for image in shown[image_set]:
        assert all(caption.fits(image) for caption in captions(image))


@pytest.mark.parametrize("image_set", CAPTION_SETS)
def test_captions_of_an_image_say_different_things(image_set: str, shown: Mapping[str, list[Image]]) -> None:
    for image in shown[image_set]:
        found = captions(image)
        assert len({cleaned(caption.text) for caption in found}) == 5
        assert len({(frozenset(caption.claims), caption.background) for caption in found}) == 5


def test_what_a_caption_claims_is_what_its_words_say(shown: Mapping[str, list[Image]]) -> None:
    """Read again, relations apart: things, colours, numbers and the background."""
    numbers = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
    singular = {plural_of(noun): noun for nouns in NOUNS.values() for noun in nouns}
    checked = 0
    for image in shown[RETRIEVAL][::5]:
        for caption in captions(image):
            words = cleaned(caption.text.replace("without a pattern", "plain")).split()
            if any(description.relation for description, _ in caption.claims):
                continue
            checked += 1
            ground = words[words.index("background") - 1] if "background" in words else None
            assert {"gray": "grey", "sandy": "sand", "blue": "sky"}.get(ground or "", ground) == caption.background
            said = {singular.get(word, word) for word in words}
            for about, _ in caption.claims:
                assert said & set(NOUNS[about.kind])
                assert about.colour is None or said & set(COLOUR_WORDS[about.colour])
            counted = [numbers[word] for word in words if word in numbers]
            assert sorted(counted[: len(caption.claims)]) == sorted(count for _, count in caption.claims)
    assert checked > 500


@pytest.mark.parametrize("image_set", [RETRIEVAL, FLICKR])
def test_a_caption_seldom_fits_another_image_of_its_split(image_set: str, shown: Mapping[str, list[Image]]) -> None:
    pool = [image for image in shown[image_set] if image.split == "test"]
    fitting = [sum(caption.fits(other) for other in pool) for image in pool for caption in captions(image)]

    assert len(fitting) == 500
    assert sum(count == 1 for count in fitting) / len(fitting) > 0.75
    assert sum(fitting) / len(fitting) < 1.5
    assert max(fitting) <= 6


def test_most_captions_list_and_some_count_or_relate(shown: Mapping[str, list[Image]]) -> None:
    found = [caption for image in shown[RETRIEVAL] for caption in captions(image)]
    counting = sum(caption.text.startswith("there") for caption in found) / len(found)
    relating = sum(any(about.relation for about, _ in caption.claims) for caption in found) / len(found)

    assert 0.05 < counting < 0.2
    assert 0.05 < relating < 0.2


def test_a_caption_of_a_relation_does_not_fit_the_mirrored_image(make_image: Callable[..., Image]) -> None:
    cat = Thing("cat", "red", "small", "plain", (10, 200, 60, 250))
    ball = Thing("ball", "blue", "small", "plain", (500, 200, 550, 250))
    image, mirrored = make_image((cat, ball)), make_image((mirror(cat), mirror(ball)))
    relating = [caption for caption in captions(image, 12) if any(about.relation for about, _ in caption.claims)]

    assert relating
    assert all(caption.fits(image) and not caption.fits(mirrored) for caption in relating)


def mirror(thing: Thing) -> Thing:
    x1, y1, x2, y2 = thing.box
    return Thing(*thing.attributes, (640 - x2, y1, 640 - x1, y2))


def test_a_background_is_part_of_what_a_caption_claims(make_image: Callable[..., Image]) -> None:
    cat = Thing("cat", "red", "small", "plain", (10, 200, 60, 250))
    caption = Caption("a cat on a white background", ((Description(kind="cat"), 1),), "white")

    assert caption.fits(make_image((cat,)))
    assert not caption.fits(make_image((cat,), "grey"))


def test_the_vocabulary_knows_every_word_of_a_caption_and_captions_are_short(
    shown: Mapping[str, list[Image]], known_words: set[str]
) -> None:
    wordpiece = WordPiece(VOCABULARY)
    texts = [text for of_set in shown.values() for image in of_set for text in sentences(image)]
    pieces = [wordpiece.tokens(text) for text in texts]
    lengths = Counter(map(len, pieces))

    assert {word for text in texts for word in cleaned(text).split()} <= known_words
    assert all(wordpiece.tokens(name) == [name] for name in DemoWorld.class_names)
    assert {piece for found in pieces for piece in found} <= known_words
    assert max(lengths) <= 16
    assert len(lengths) > 8
    assert max(lengths.values()) < len(texts) / 3


# Images


def test_no_caption_set_shares_an_image_with_any_other_set() -> None:
    """By the names that leaks are found by: with these, and not with numbers, does the runner compare images."""
    keys = {image_set: [image_key(image.id) for image in images(image_set)] for image_set in IMAGE_SETS}
    everything = [key for found in keys.values() for key in found]

    assert {RETRIEVAL, FLICKR, PRETRAINING} < set(keys)
    assert len(set(everything)) == len(everything)


def test_pre_training_shows_no_scene_that_retrieval_tests_on(shown: Mapping[str, list[Image]]) -> None:
    """Other names would not help if the pictures were the same."""
    seen = {(image.scene.background, image.scene.things) for image in shown[PRETRAINING]}
    tested = [image.scene for image_set in (RETRIEVAL, FLICKR) for image in shown[image_set]]

    assert len(seen) == len(shown[PRETRAINING])
    assert not [scene for scene in tested if (scene.background, scene.things) in seen]


@pytest.mark.parametrize("image_set", CAPTION_SETS)
def test_pictures_show_every_split(image_set: str, folder: Path) -> None:
    write_pictures(images(image_set), folder, per_split=1)

    assert len(list(folder.iterdir())) == len({image.split for image in images(image_set)})


@pytest.mark.parametrize(("dataset", "epochs", "rate"), [("flickr30k", 5, 5e-4), ("coco-captions", 12, 1e-3)])
def test_caption_datasets_have_a_schedule_of_their_own(dataset: str, epochs: int, rate: float) -> None:
    source = create_plugins().demo_sources()[dataset]
    schedule = DemoWorld().overrides(source.epochs, source.learning_rate)

    assert (schedule["train.epochs"], schedule["train.learning_rate"]) == (epochs, rate)
    assert schedule["train.evaluate_every"] == 2


def test_processes_share_the_two_micro_batches_of_every_demo() -> None:
    assert DemoWorld().overrides(3, 1e-3)["train.micro_batches"] == 2


def test_six_captions_are_the_five_and_one_more() -> None:
    first, second = images(RETRIEVAL)[:2]
    six = sentences(first, 6)

    assert len(six) == 6
    assert six[:5] == sentences(first)
    assert with_six_captions([first, second]) == {first.number}
