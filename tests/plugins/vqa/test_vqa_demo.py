"""VQA v2: the schema of the originals, ten believable answers, and files that the builder of real data reads."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vlrun.plugins.manager import create_plugins
from vlrun_demo.images import Image
from vlrun_demo.language import answer
from vlrun_demo.world import VQA, images
from vlrun_vqa.demo import HIDDEN, PARTS, asked_about, write_vqa


@pytest.fixture(scope="module")
def chosen() -> list[Image]:
    return images(VQA)[::6]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, chosen: list[Image]) -> Path:
    folder = tmp_path_factory.mktemp("vqav2")
    write_vqa(folder, chosen)
    return folder


def questions_of(folder: Path, part: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"v2_OpenEnded_mscoco_{part}_questions.json").read_text())
    return content


def annotations_of(folder: Path, part: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"v2_mscoco_{part}_annotations.json").read_text())
    return content


def types_of(content: dict[str, Any]) -> dict[str, type]:
    return {key: type(value) for key, value in content.items()}


@pytest.mark.parametrize("key", ["questions", "annotations"])
def test_the_schema_is_that_of_the_originals(archive: Path, samples: Path, key: str) -> None:
    ours = (questions_of if key == "questions" else annotations_of)(archive, "train2014")
    real = json.loads((samples / "vqav2" / f"official_header_example_{key}.json").read_text())

    assert types_of(ours) == types_of(real)
    assert types_of(ours["info"]) == types_of(real["info"])
    assert types_of(ours["license"]) == types_of(real["license"])
    small = f"v2_{'OpenEnded_' if key == 'questions' else ''}mscoco_train2014_{key}.small.json"
    (row_types, *_) = map(types_of, json.loads((samples / "vqav2" / small).read_text())[key])
    for row in ours[key]:
        assert types_of(row) == row_types
    for row in ours["annotations"] if key == "annotations" else []:
        assert [types_of(given) for given in row["answers"]] == [types_of(real[key][0]["answers"][0])] * 10
        assert [given["answer_id"] for given in row["answers"]] == list(range(1, 11))


def test_annotations_fit_the_questions(archive: Path) -> None:
    for part in PARTS.keys() - set(HIDDEN):
        asked, answered = questions_of(archive, part)["questions"], annotations_of(archive, part)["annotations"]
        assert [row["question_id"] for row in asked] == [row["question_id"] for row in answered]
        assert [row["image_id"] for row in asked] == [row["image_id"] for row in answered]
        assert all(row["question_id"] // 1000 == row["image_id"] for row in asked)
    assert not list(archive.glob("*test*annotations*"))


def test_minival_and_test_dev_are_parts_and_other_splits_share_no_image(archive: Path) -> None:
    ids = {part: {row["image_id"] for row in questions_of(archive, part)["questions"]} for part in PARTS}

    assert ids["minival2014"] < ids["val2014"]
    assert ids["test-dev2015"] < ids["test2015"]
    assert not ids["train2014"] & ids["val2014"]
    assert not ids["test2015"] & (ids["train2014"] | ids["val2014"])


def test_the_most_common_answer_is_the_right_one(archive: Path, chosen: list[Image]) -> None:
    right = {asked.question_id: asked.answer for asked in asked_about(chosen)}
    for row in annotations_of(archive, "train2014")["annotations"]:
        ((most_common, count),) = Counter(given["answer"] for given in row["answers"]).most_common(1)
        assert row["multiple_choice_answer"] == most_common == right[row["question_id"]]
        assert count >= 5


def test_people_disagree_and_are_not_always_sure(archive: Path) -> None:
    rows = annotations_of(archive, "train2014")["annotations"]
    given = [answer for row in rows for answer in row["answers"]]
    sure = Counter(answer["answer_confidence"] for answer in given)
    unanimous = [len({answer["answer"] for answer in row["answers"]}) == 1 for row in rows]

    assert 0.3 < sum(unanimous) / len(unanimous) < 0.6
    assert set(sure) == {"yes", "maybe", "no"}
    assert sure["yes"] > sure["maybe"] > sure["no"]
    words = {answer["answer"] for answer in given}
    assert {"dark", "left side", "two"} & words
    assert any(word.startswith(("a ", "the ")) for word in words)


def test_types_are_the_official_ones(archive: Path, samples: Path) -> None:
    official = (samples / "vocabs" / "vqa_mscoco_question_types.txt").read_text().splitlines()
    texts = {row["question_id"]: row["question"].lower() for row in questions_of(archive, "train2014")["questions"]}
    rows = annotations_of(archive, "train2014")["annotations"]

    assert {row["answer_type"] for row in rows} == {"yes/no", "number", "other"}
    assert {row["answer_type"] for row in rows if row["multiple_choice_answer"] in ("yes", "no")} == {"yes/no"}
    for row in rows:
        fitting = [found for found in official if texts[row["question_id"]].startswith(f"{found} ")]
        assert row["question_type"] == max(fitting, key=len)


def test_image_names_are_those_of_coco(chosen: list[Image]) -> None:
    parts = {image.split: image.id[:-12] for image in chosen}

    assert parts == {
        "train": "COCO_train2014_",
        "nominival": "COCO_val2014_",
        "minival": "COCO_val2014_",
        "test-dev": "COCO_test2015_",
        "test": "COCO_test2015_",
    }
    assert all(image.id.endswith(f"_{image.number:012d}") for image in chosen)


def test_a_question_alone_does_not_tell_the_answer() -> None:
    """The best guess for each text, learned on train, is right for few questions of minival."""
    seen: dict[str, Counter[str]] = {}
    hits, total = 0, 0
    for asked in asked_about(image for image in images(VQA) if image.split in ("train", "minival")):
        if asked.image.split == "train":
            seen.setdefault(asked.text, Counter())[asked.answer] += 1
        else:
            total += 1
            hits += asked.text in seen and seen[asked.text].most_common(1)[0][0] == asked.answer

    assert total > 400
    assert hits / total < 0.45


def test_answers_agree_with_the_scene(chosen: list[Image]) -> None:
    for asked in asked_about(chosen[:40]):
        if asked.question.asks in ("exist", "verify", "count", "side"):
            assert asked.answer == answer(asked.image, asked.question)


def test_the_builder_of_real_data_reads_the_files(archive: Path, tmp_path: Path) -> None:
    (builder,) = (b for b in create_plugins().find("dataset", "vqav2").builders if b.source == "official")
    report = builder.build(archive, tmp_path / "out")

    assert set(report.counts) == {"train", "val", "minival", "nominival", "test", "test-dev"}
    assert report.counts["val"] == report.counts["minival"] + report.counts["nominival"]
