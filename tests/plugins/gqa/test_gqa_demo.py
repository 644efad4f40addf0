"""GQA: the schema of the originals, programs that fit their questions, and files that the real builder reads."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vlrun import DemoImage
from vlrun.plugins.manager import create_plugins
from vlrun_demo.images import Image
from vlrun_demo.language import Description, Question, answer, questions, value_of
from vlrun_demo.scene import make_sparse_scene
from vlrun_demo.world import GQA, images
from vlrun_gqa.demo.entailment import derived, facts
from vlrun_gqa.demo.files import SHARES, asked_about, write_gqa

Rows = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def chosen() -> list[Image]:
    return images(GQA)[::6]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, chosen: list[Image]) -> Path:
    folder = tmp_path_factory.mktemp("gqa")
    write_gqa(folder, chosen)
    return folder


def rows(folder: Path, name: str) -> Rows:
    content: Rows = json.loads((folder / f"{name}.json").read_text())
    return content


def test_the_schema_is_that_of_the_originals(archive: Path, samples: Path) -> None:
    (real, *_) = json.loads((samples / "gqa" / "testdev_balanced_questions.subset.json").read_text()).values()

    for row in rows(archive, "testdev_all_questions").values():
        assert row.keys() == real.keys()
        for key in ("groups", "types", "annotations"):
            assert row[key].keys() == real[key].keys()
        assert all(step.keys() == real["semantic"][0].keys() for step in row["semantic"])
        assert {key: type(value) for key, value in row.items()} == {key: type(value) for key, value in real.items()}


def test_types_are_those_of_the_originals(archive: Path, samples: Path) -> None:
    real = json.loads((samples / "gqa" / "testdev_balanced_questions.subset.json").read_text()).values()
    known = {tuple(sorted(row["types"].items())) for row in real}
    ours = {tuple(sorted(row["types"].items())) for row in rows(archive, "train_balanced_questions").values()}

    assert ours <= known
    assert {dict(types)["structural"] for types in ours} == {"query", "verify", "choose", "logical"}


def test_ids_are_text_with_leading_zeros(archive: Path) -> None:
    train, testdev = rows(archive, "train_balanced_questions"), rows(archive, "testdev_all_questions")

    assert all(name.startswith("0") for name in train)
    assert len({int(name) for name in train}) == len(train)
    assert all(row["imageId"].isdecimal() for row in train.values())
    assert all(row["imageId"][0] == "n" and row["imageId"][1:].isdecimal() for row in testdev.values())


def test_splits_share_neither_images_nor_questions(archive: Path) -> None:
    splits = [
        rows(archive, name)
        for name in (
            "train_balanced_questions",
            "val_all_questions",
            "testdev_all_questions",
            "test_balanced_questions",
        )
    ]
    of_images = [{row["imageId"] for row in split.values()} for split in splits]

    assert sum(map(len, of_images)) == len(set().union(*of_images))
    assert sum(map(len, splits)) == len({name for split in splits for name in split})


@pytest.mark.parametrize("split", ["val", "testdev"])
def test_balanced_questions_are_a_part_of_all(archive: Path, split: str) -> None:
    everything, balanced = (rows(archive, f"{split}_{name}_questions") for name in ("all", "balanced"))

    assert balanced == {name: row for name, row in everything.items() if row["isBalanced"]}
    assert len(balanced) < len(everything)


def test_entailed_questions_are_others_about_the_same_image(archive: Path) -> None:
    found = rows(archive, "testdev_all_questions")
    for name, row in found.items():
        assert row["equivalent"] == [name]
        assert name not in row["entailed"]
        assert {found[other]["imageId"] for other in row["entailed"]} <= {row["imageId"]}
    assert sum(bool(row["entailed"]) for row in found.values()) > 0.5 * len(found)


def test_programs_lead_to_the_answers(chosen: list[Image]) -> None:
    """Each program, run on the image that it asks about, gives the answer of its question."""
    for image in chosen[::4]:
        for asked in asked_about(image):
            assert run(asked.image, asked.wording.program) == asked.answer


def run(image: DemoImage, program: Any) -> str:
    names = {"color": "colour", "pattern": "pattern", "name": "kind"}
    results: list[Any] = []
    for step in program:
        inputs = [results[index] for index in step.dependencies]
        match step.operation.split():
            case ["select"]:
                kind = step.argument.split(" (")[0]
                results.append([thing for thing in image.objects if kind in ("thing", thing.name)])
            case ["filter", name]:
                value = {"checkered": "checked"}.get(step.argument, step.argument)
                results.append([thing for thing in inputs[0] if value_of(thing, names[name]) == value])
            case ["exist"]:
                results.append("yes" if inputs[0] else "no")
            case ["or" | "and" as joined]:
                there = [given == "yes" for given in inputs]
                results.append("yes" if (any(there) if joined == "or" else all(there)) else "no")
            case ["verify", name]:
                (thing,) = inputs[0]
                results.append("yes" if value_of(thing, names[name]) == step.argument else "no")
            case ["choose", name]:
                (thing,) = inputs[0]
                (value,) = (option for option in step.argument.split("|") if option == value_of(thing, names[name]))
                results.append(value)
            case ["query"]:
                (thing,) = inputs[0]
                if step.argument == "hposition":
                    results.append("left" if thing.box[0] + thing.box[2] < image.width else "right")
                else:
                    results.append(value_of(thing, names[step.argument]))
            case _:
                raise AssertionError(step)
    return str(results[-1])


def test_semantic_text_has_the_spelling_of_the_originals(archive: Path, samples: Path) -> None:
    real = json.loads((samples / "gqa" / "testdev_balanced_questions.subset.json").read_text()).values()
    ours = rows(archive, "testdev_all_questions").values()

    def spelled(row: dict[str, Any]) -> str:
        return "->".join(
            f"{step['operation']}: {step['argument']}" + (f" {step['dependencies']}" if step["dependencies"] else "")
            for step in row["semantic"]
            if step["argument"] != "scene"
        )

    assert all(row["semanticStr"] == spelled(row) for row in ours)
    without_scenes = [row for row in real if "scene" not in row["semanticStr"]]
    assert all(row["semanticStr"] == spelled(row) for row in without_scenes)


def test_pointers_name_the_object_that_the_program_selects(archive: Path) -> None:
    for row in rows(archive, "testdev_all_questions").values():
        for words, found in row["annotations"]["question"].items():
            first, _, end = words.partition(":")
            named = row["question"].split()[int(first) : int(end) if end else int(first) + 1]
            assert named
            assert f"({found})" in row["semanticStr"]


def test_choices_hold_the_answer(archive: Path) -> None:
    choices = json.loads((archive / "val_choices.json").read_text())
    found = rows(archive, "val_all_questions")

    assert choices.keys() == found.keys()
    for name, row in found.items():
        assert row["answer"] in choices[name]["valid"]
        assert row["answer"] in choices[name]["plausible"]
        assert set(choices[name]["plausible"]) <= set(choices[name]["valid"]) or row["types"]["structural"] == "choose"


def test_test_questions_have_no_answers(archive: Path) -> None:
    hidden, submission = (rows(archive, name) for name in ("test_balanced_questions", "submission_all_questions"))

    assert hidden.keys() <= submission.keys()
    assert rows(archive, "testdev_all_questions").keys() <= submission.keys()
    assert {key for row in submission.values() for key in row} == {"question", "imageId", "isBalanced"}


def test_a_question_alone_does_not_tell_the_answer() -> None:
    seen: dict[str, Counter[str]] = {}
    hits, total = 0, 0
    for image in images(GQA):
        for asked in asked_about(image) if image.split in ("train", "testdev") else []:
            if asked.is_balanced and image.split == "train":
                seen.setdefault(asked.wording.text, Counter())[asked.answer] += 1
            elif asked.is_balanced:
                total += 1
                guess = seen.get(asked.wording.text, Counter({"no": 1})).most_common(1)[0][0]
                hits += guess == asked.answer

    assert total > 400
    assert hits / total < 0.5


def test_the_builder_of_real_data_reads_the_files(archive: Path, tmp_path: Path) -> None:
    (builder,) = (b for b in create_plugins().find("dataset", "gqa").builders if b.source == "official")
    report = builder.build(archive, tmp_path / "out")

    assert {"train", "valid", "testdev", "test", "valid_all", "testdev_all", "submission"} <= set(report.counts)
    first = json.loads((tmp_path / "out" / "train.jsonl").read_text().splitlines()[0])
    assert first["id"].startswith("0")


def test_what_follows_from_an_answer_is_true() -> None:
    checked = 0
    for number in range(9_000_000, 9_000_300):
        image = Image(number, "train", str(number), "vg_gqa", make_sparse_scene)
        found = questions(image, SHARES, 6)
        for question in found:
            known = facts(question, answer(image, question))
            assert derived(known, question) in (answer(image, question), None)
            for other in found:
                implied = derived(known, other)
                checked += implied is not None and other != question
                assert implied in (None, answer(image, other)), (question, other)
    assert checked > 100


def test_a_colour_tells_about_the_same_thing_only() -> None:
    ball = Description(kind="ball")
    known = facts(Question("query", ball, "colour"), "red")

    assert derived(known, Question("verify", ball, "colour", ("red",))) == "yes"
    assert derived(known, Question("verify", ball, "colour", ("blue",))) == "no"
    assert derived(known, Question("query", Description(colour="red"), "kind")) == "ball"
    assert derived(known, Question("exist", ball)) == "yes"
    assert derived(known, Question("side", ball)) is None
    assert derived(known, Question("verify", Description(kind="cat"), "colour", ("red",))) is None
    assert derived(known, Question("query", Description(pattern="plain"), "colour")) is None


def test_existence_tells_about_this_or_that() -> None:
    either, both = (Question(asks, Description(), options=("cat", "ball")) for asks in ("either", "both"))
    yes, no = (facts(Question("exist", Description(kind="cat")), given) for given in ("yes", "no"))

    assert (derived(yes, either), derived(yes, both)) == ("yes", None)
    assert (derived(no, either), derived(no, both)) == (None, "no")
    assert derived(facts(either, "no"), both) == "no"
    assert derived(facts(both, "yes"), either) == "yes"
