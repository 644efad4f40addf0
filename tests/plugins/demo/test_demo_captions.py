"""Captions: the schema of the originals, true sentences that tell images apart, and images that no other set has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from vlrun.blocks.wordpiece import WordPiece
from vlrun.data.identities import image_key
from vlrun.plugins.manager import create_plugins
from vlrun_demo.captions import Caption, captions
from vlrun_demo.language import COLOUR_WORDS, NOUNS, all_words, cleaned, plural_of
from vlrun_demo.meaning import Description
from vlrun_demo.official_captions import sentences, with_six_captions
from vlrun_demo.picture import write_pictures
from vlrun_demo.provider import DemoWorld
from vlrun_demo.scene import Scene, Thing
from vlrun_demo.world import FLICKR, IMAGE_SETS, PRETRAINING, RETRIEVAL, images

CAPTION_SETS = {"coco-retrieval": RETRIEVAL, "flickr30k": FLICKR, "coco-captions": PRETRAINING}
KARPATHY = {"coco-retrieval": "coco", "flickr30k": "flickr30k"}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def archives(annotations: Callable[[str], Path]) -> Mapping[str, Path]:
    """The files of all caption datasets, by dataset."""
    return {dataset: annotations(dataset) for dataset in CAPTION_SETS}


@pytest.fixture(scope="module")
def scenes() -> Mapping[str, dict[str, Scene]]:
    """Dataset -> image stem -> scene."""
    return {
        dataset: {image.stem: image.scene() for image in images(image_set)}
        for dataset, image_set in CAPTION_SETS.items()
    }


def karpathy(archives: Mapping[str, Path], dataset: str) -> Row:
    content: Row = json.loads((archives[dataset] / f"dataset_{KARPATHY[dataset]}.json").read_text())
    return content


def official(archives: Mapping[str, Path], part: str) -> Row:
    content: Row = json.loads((archives["coco-captions"] / f"captions_{part}.json").read_text())
    return content


def stem_of(row: Row, key: str) -> str:
    return Path(row[key]).stem


# Karpathy's files


@pytest.mark.parametrize("dataset", KARPATHY)
def test_karpathys_rows_have_the_keys_of_the_originals(archives: Mapping[str, Path], dataset: str) -> None:
    content = karpathy(archives, dataset)
    of_coco = {"filepath", "cocoid"} if dataset == "coco-retrieval" else set()

    assert content["dataset"] == KARPATHY[dataset]
    for row in content["images"]:
        assert row.keys() == {"filename", "split", "imgid", "sentids", "sentences", *of_coco}
        for sentence in row["sentences"]:
            assert sentence.keys() == {"raw", "tokens", "imgid", "sentid"}
            assert sentence["tokens"] == cleaned(sentence["raw"]).split()
            assert sentence["imgid"] == row["imgid"]
        assert row["sentids"] == [sentence["sentid"] for sentence in row["sentences"]]


@pytest.mark.parametrize("dataset", KARPATHY)
def test_images_and_sentences_are_numbered_through(archives: Mapping[str, Path], dataset: str) -> None:
    rows = karpathy(archives, dataset)["images"]
    sentids = [sentid for row in rows for sentid in row["sentids"]]

    assert [row["imgid"] for row in rows] == list(range(len(rows)))
    assert sentids == list(range(len(sentids)))


def test_images_of_coco_are_named_by_their_cocoid_and_their_folder(archives: Mapping[str, Path]) -> None:
    rows = karpathy(archives, "coco-retrieval")["images"]
    folders = {split: {row["filepath"] for row in rows if row["split"] == split} for split in ("train", "restval")}

    assert all(stem_of(row, "filename") == f"COCO_{row['filepath']}_{row['cocoid']:012d}" for row in rows)
    assert folders == {"train": {"train2014"}, "restval": {"val2014"}}
    assert {row["filepath"] for row in rows if row["split"] in ("val", "test")} == {"val2014"}
    assert not any(row["cocoid"] == row["imgid"] for row in rows)


def test_images_of_flickr_have_plain_numbers(archives: Mapping[str, Path]) -> None:
    assert all(stem_of(row, "filename").isdecimal() for row in karpathy(archives, "flickr30k")["images"])


@pytest.mark.parametrize(
    ("dataset", "sizes"),
    [
        ("coco-retrieval", {"train": 560, "restval": 140, "val": 60, "test": 100}),
        ("flickr30k", {"train": 700, "val": 60, "test": 100}),
    ],
)
def test_splits_have_their_sizes(archives: Mapping[str, Path], dataset: str, sizes: dict[str, int]) -> None:
    assert Counter(row["split"] for row in karpathy(archives, dataset)["images"]) == sizes


def test_three_images_of_coco_have_six_captions_and_all_others_five(archives: Mapping[str, Path]) -> None:
    rows = karpathy(archives, "coco-retrieval")["images"]

    assert [row["split"] for row in rows if len(row["sentences"]) == 6] == ["train", "val", "test"]
    assert Counter(len(row["sentences"]) for row in rows) == {5: 857, 6: 3}
    assert {len(row["sentences"]) for row in karpathy(archives, "flickr30k")["images"]} == {5}


@pytest.mark.parametrize("dataset", KARPATHY)
def test_the_builder_of_real_data_reads_what_was_written(
    archives: Mapping[str, Path], dataset: str, tmp_path: Path
) -> None:
    pytest.importorskip("vlrun_retrieval")
    builders = create_plugins().find("dataset", dataset).builders
    wanted = create_plugins().demo_sources()[dataset].builder
    report = next(builder for builder in builders if builder.source == wanted).build(archives[dataset], tmp_path)
    rows = karpathy(archives, dataset)["images"]
    expected: dict[str, list[tuple[str, str, str]]] = {"train": [], "val": [], "test": []}
    for row in rows:
        split = expected["train" if row["split"] == "restval" else row["split"]]
        split += [(str(given["sentid"]), given["raw"], stem_of(row, "filename")) for given in row["sentences"]]

    assert report.counts == {split: len(captions) for split, captions in expected.items()}
    for split, captions_of_split in expected.items():
        built = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        assert [(row["id"], row["text"], row["image"]) for row in built] == captions_of_split
    assert not [remark for remark in report.remarks if "share" in remark]


# COCO's own files


def test_cocos_own_files_have_the_keys_of_the_originals(archives: Mapping[str, Path], samples: Path) -> None:
    real = json.loads((samples / "coco_captions" / "captions_val2014_rows.json").read_text())[0]
    for part, count in (("train2014", 1500), ("val2014", 60)):
        content = official(archives, part)
        assert content.keys() == {"info", "licenses", "images", "annotations"}
        assert len(content["images"]) == count
        assert all(stem_of(row, "file_name") == f"COCO_{part}_{row['id']:012d}" for row in content["images"])
        for row in content["annotations"]:
            assert {key: type(value) for key, value in row.items()} == {key: type(real[key]) for key in real}


def test_captions_of_an_image_lie_apart_in_cocos_own_files(archives: Mapping[str, Path]) -> None:
    for part, captions_in_all in (("train2014", 1500 * 5 + 1), ("val2014", 60 * 5 + 1)):
        content = official(archives, part)
        owners = [row["image_id"] for row in content["annotations"]]
        assert len({row["id"] for row in content["annotations"]}) == len(owners) == captions_in_all
        assert set(owners) == {row["id"] for row in content["images"]}
        assert sum(one == next_one for one, next_one in pairwise(owners)) < len(owners) / 20
    numbers = [row["id"] for part in ("train2014", "val2014") for row in official(archives, part)["annotations"]]
    assert len(set(numbers)) == len(numbers)


def test_the_builder_of_cocos_own_files_reads_what_was_written(archives: Mapping[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("vlrun_pretraining")
    (builder,) = (b for b in create_plugins().find("dataset", "coco-captions").builders if b.source == "official")
    report = builder.build(archives["coco-captions"], tmp_path)

    assert report.counts == {"train": 7501, "val": 301}
    for split, part in (("train", "train2014"), ("val", "val2014")):
        content = official(archives, part)
        names = {row["id"]: stem_of(row, "file_name") for row in content["images"]}
        built = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        assert {(row["id"], row["text"], row["image"]) for row in built} == {
            (str(row["id"]), row["caption"], names[row["image_id"]]) for row in content["annotations"]
        }


# What is said


@pytest.mark.parametrize("dataset", CAPTION_SETS)
def test_captions_are_true(dataset: str, scenes: Mapping[str, dict[str, Scene]]) -> None:
    for scene in scenes[dataset].values():
        assert all(caption.fits(scene) for caption in captions(scene))


@pytest.mark.parametrize("dataset", CAPTION_SETS)
def test_captions_of_an_image_say_different_things(dataset: str, scenes: Mapping[str, dict[str, Scene]]) -> None:
    for scene in scenes[dataset].values():
        found = captions(scene)
        assert len({cleaned(caption.text) for caption in found}) == 5
        assert len({(frozenset(caption.claims), caption.background) for caption in found}) == 5


def test_what_a_caption_claims_is_what_its_words_say(scenes: Mapping[str, dict[str, Scene]]) -> None:
    """Read again, relations apart: things, colours, numbers and the background."""
    numbers = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
    singular = {plural_of(noun): noun for nouns in NOUNS.values() for noun in nouns}
    checked = 0
    for scene in list(scenes["coco-retrieval"].values())[::5]:
        for caption in captions(scene):
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


@pytest.mark.parametrize("dataset", KARPATHY)
def test_a_caption_seldom_fits_another_image_of_its_split(dataset: str, scenes: Mapping[str, dict[str, Scene]]) -> None:
    pool = [scenes[dataset][image.stem] for image in images(CAPTION_SETS[dataset]) if image.split == "test"]
    fitting = [sum(caption.fits(other) for other in pool) for scene in pool for caption in captions(scene)]

    assert len(fitting) == 500
    assert sum(count == 1 for count in fitting) / len(fitting) > 0.75
    assert sum(fitting) / len(fitting) < 1.5
    assert max(fitting) <= 6


def test_most_captions_list_and_some_count_or_relate(scenes: Mapping[str, dict[str, Scene]]) -> None:
    found = [caption for scene in scenes["coco-retrieval"].values() for caption in captions(scene)]
    counting = sum(caption.text.startswith("there") for caption in found) / len(found)
    relating = sum(any(about.relation for about, _ in caption.claims) for caption in found) / len(found)

    assert 0.05 < counting < 0.2
    assert 0.05 < relating < 0.2


def test_a_caption_of_a_relation_does_not_fit_the_mirrored_scene() -> None:
    cat = Thing("cat", "red", "small", "plain", (10, 200, 60, 250))
    ball = Thing("ball", "blue", "small", "plain", (500, 200, 550, 250))
    scene = Scene(1, 640, 480, "white", (cat, ball))
    mirrored = Scene(1, 640, 480, "white", (mirror(cat), mirror(ball)))
    relating = [caption for caption in captions(scene, 12) if any(about.relation for about, _ in caption.claims)]

    assert relating
    assert all(caption.fits(scene) and not caption.fits(mirrored) for caption in relating)


def mirror(thing: Thing) -> Thing:
    x1, y1, x2, y2 = thing.box
    return Thing(*thing.attributes, (640 - x2, y1, 640 - x1, y2))


def test_a_background_is_part_of_what_a_caption_claims() -> None:
    scene = Scene(1, 640, 480, "white", (Thing("cat", "red", "small", "plain", (10, 200, 60, 250)),))
    caption = Caption("a cat on a white background", ((Description(kind="cat"), 1),), "white")

    assert caption.fits(scene)
    assert not caption.fits(Scene(1, 640, 480, "grey", scene.things))


def test_the_vocabulary_knows_every_word_of_a_caption_and_captions_are_short(
    archives: Mapping[str, Path], tmp_path: Path
) -> None:
    DemoWorld().write_vocabulary(tmp_path / "vocabulary.txt")
    wordpiece = WordPiece(tmp_path / "vocabulary.txt")
    texts = [row["caption"] for part in ("train2014", "val2014") for row in official(archives, part)["annotations"]]
    for dataset in KARPATHY:
        texts += [given["raw"] for row in karpathy(archives, dataset)["images"] for given in row["sentences"]]
    pieces = [wordpiece.tokens(text) for text in texts]
    lengths = Counter(map(len, pieces))

    assert {word for text in texts for word in cleaned(text).split()} <= set(all_words())
    assert {piece for found in pieces for piece in found} <= {*all_words(), ",", "."}
    assert max(lengths) <= 16
    assert len(lengths) > 8
    assert max(lengths.values()) < len(texts) / 3


def test_captions_are_typed_by_people(archives: Mapping[str, Path]) -> None:
    texts = [row["caption"] for row in official(archives, "train2014")["annotations"]]

    assert 0.7 < sum(text[0].isupper() for text in texts) / len(texts) < 0.9
    assert 0.5 < sum(text.endswith(".") for text in texts) / len(texts) < 0.7


# Images


def test_no_caption_set_shares_an_image_with_any_other_set() -> None:
    """By the names that leaks are found by: with these, and not with numbers, does the runner compare images."""
    keys = {image_set: [image_key(image.stem) for image in images(image_set)] for image_set in IMAGE_SETS}
    everything = [key for found in keys.values() for key in found]

    assert {RETRIEVAL, FLICKR, PRETRAINING} < set(keys)
    assert len(set(everything)) == len(everything)


def test_names_in_the_files_are_those_of_the_image_sets(archives: Mapping[str, Path]) -> None:
    named = {
        RETRIEVAL: [row["filename"] for row in karpathy(archives, "coco-retrieval")["images"]],
        FLICKR: [row["filename"] for row in karpathy(archives, "flickr30k")["images"]],
        PRETRAINING: [
            row["file_name"] for part in ("train2014", "val2014") for row in official(archives, part)["images"]
        ],
    }

    assert named == {image_set: [image.name for image in images(image_set)] for image_set in named}


def test_pre_training_shows_no_scene_that_retrieval_tests_on(scenes: Mapping[str, dict[str, Scene]]) -> None:
    """Other names would not help if the pictures were the same."""
    seen = {(scene.background, scene.things) for scene in scenes["coco-captions"].values()}
    tested = [scene for dataset in KARPATHY for scene in scenes[dataset].values()]

    assert len(seen) == len(scenes["coco-captions"])
    assert not [scene for scene in tested if (scene.background, scene.things) in seen]


@pytest.mark.parametrize("image_set", CAPTION_SETS.values())
def test_pictures_show_every_split(image_set: str, folder: Path) -> None:
    write_pictures(image_set, folder, per_split=1)

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
    six = sentences(first, first.scene(), sixth=True)

    assert len(six) == 6
    assert six[:5] == sentences(first, first.scene())
    assert with_six_captions([first, second]) == {first.image_id}
