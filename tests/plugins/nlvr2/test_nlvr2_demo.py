"""NLVR2: the schema of the originals, true labels that words do not tell, and files that the real builder reads."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrun import DemoImage
from vlrun.plugins.manager import create_plugins
from vlrun_demo.provider import DemoWorld
from vlrun_nlvr2.demo.files import subsets
from vlrun_nlvr2.demo.pairs import SET_COUNTS, pair_images

Row = dict[str, Any]


@pytest.fixture(scope="module")
def archive(demo_files: Callable[[str], Path]) -> Path:
    return demo_files("nlvr2")


def rows(folder: Path, name: str) -> list[Row]:
    return [json.loads(line) for line in (folder / f"{name}.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def shown() -> dict[str, DemoImage]:
    return {image.id: image for image in DemoWorld().make_images(pair_images())}


def test_lines_have_the_keys_of_the_originals(archive: Path, samples: Path) -> None:
    real = json.loads((samples / "nlvr2" / "dev.json").read_text().splitlines()[0])

    for row in rows(archive, "dev"):
        assert {key: type(value) for key, value in row.items()} == {key: type(value) for key, value in real.items()}
    for row in rows(archive, "train"):
        assert row.keys() == real.keys() - {"extra_validations"} | {"directory"}
        assert 0 <= row["directory"] < 100


def test_labels_are_words_and_half_of_them_are_true(archive: Path) -> None:
    for split in SET_COUNTS:
        labels = Counter(row["label"] for row in rows(archive, split))
        assert set(labels) == {"True", "False"}
        assert 0.4 < labels["True"] / labels.total() < 0.6


def test_identifiers_name_set_pair_and_sentence(archive: Path) -> None:
    for split in SET_COUNTS:
        found = [row["identifier"] for row in rows(archive, split)]
        assert len(set(found)) == len(found)
        assert all(re.fullmatch(rf"{split}-\d+-[0-3]-[01]", name) for name in found)


def test_a_sentence_is_about_several_pairs(archive: Path) -> None:
    sentences: dict[str, set[str]] = {}
    sizes: Counter[str] = Counter()
    for row in rows(archive, "dev"):
        split, number, _, sentence = row["identifier"].split("-")
        group = f"{split}-{number}--{sentence}"
        sizes[group] += 1
        sentences.setdefault(group, set()).add(row["sentence"])

    assert all(len(found) == 1 for found in sentences.values())
    assert {3, 4} <= set(sizes.values()) <= {1, 2, 3, 4}


def test_labels_are_true_of_the_images(archive: Path, shown: dict[str, DemoImage]) -> None:
    """By reading the sentence again."""
    for row in rows(archive, "test1"):
        pair = row["identifier"].rsplit("-", 1)[0]
        fits = [shows(shown[f"{pair}-img{side}"], row["sentence"]) for side in (0, 1)]
        expected = {
            "left": fits[0],
            "right": fits[1],
            "both": all(fits),
            "each": all(fits),
            "at least": any(fits),
        }
        (truth,) = {value for words, value in expected.items() if words in row["sentence"].lower()}
        assert row["label"] == str(truth)


def shows(image: DemoImage, sentence: str) -> bool:
    words = sentence.lower().strip(".").split()
    if "background" in words:
        return image.background == words[words.index("background") - 1]
    for word in words:
        if word in ("red", "blue"):
            return any(thing.attributes["colour"] == word for thing in image.objects)
        kind = word.removesuffix("s")
        if kind in ("robot", "ghost", "cat"):
            count = sum(thing.name == kind for thing in image.objects)
            return count == 2 if "exactly" in words else count >= 1
    raise AssertionError(sentence)


def test_there_are_several_kinds_of_statements(archive: Path) -> None:
    text = " ".join(row["sentence"] for row in rows(archive, "train"))

    for words in (
        "The left image",
        "in the right image",
        "Both images",
        "in each image",
        "At least one",
        "exactly two",
        "background",
    ):
        assert words in text
    assert "There is exactly" not in text


def test_words_do_not_tell_the_label(archive: Path) -> None:
    """The most frequent label of a sentence in train is right about as often as a coin."""
    seen: dict[str, Counter[str]] = {}
    for row in rows(archive, "train"):
        seen.setdefault(row["sentence"], Counter())[row["label"]] += 1
    held_out = [row for split in ("dev", "test1", "test2") for row in rows(archive, split)]
    hits = [seen.get(row["sentence"], Counter({"True": 1})).most_common(1)[0][0] == row["label"] for row in held_out]

    assert len(hits) > 700
    assert 0.42 < sum(hits) / len(hits) < 0.58


def test_subsets_follow_the_published_rule(archive: Path, samples: Path) -> None:
    for split in ("dev", "test1"):
        real = rows(samples / "nlvr2", split)
        for name, expected in subsets(real).items():
            published = {row["identifier"] for row in rows(samples / "nlvr2" / name, f"{name}_{split}")}
            assert {row["identifier"] for row in expected} == published
            ours = rows(archive / name, f"{name}_{split}")
            assert ours == subsets(rows(archive, split))[name]
            assert ours


def test_splits_share_no_image() -> None:
    stems = [image.id for image in pair_images()]
    numbers = [image.number for image in pair_images()]

    assert len(set(stems)) == len(set(numbers)) == len(stems) == 8 * sum(SET_COUNTS.values())
    assert stems[0] == "train-0-0-img0"


def test_the_builder_of_real_data_reads_the_files(archive: Path, tmp_path: Path) -> None:
    (builder,) = (b for b in create_plugins().find("dataset", "nlvr2").builders if b.source == "official")
    report = builder.build(archive, tmp_path / "out")

    assert set(report.counts) == set(SET_COUNTS)
    first = json.loads((tmp_path / "out" / "dev.jsonl").read_text().splitlines()[0])
    assert set(first["images"]) <= {image.id for image in pair_images()}
