"""Demo data of RefCOCO: the schema of the originals, the same bytes each time, and readable by the builders."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrun.blocks.wordpiece import WordPiece
from vlrun.data.annotations import load_plain_pickle
from vlrun.plugins.manager import create_plugins
from vlrun_demo.images import Image
from vlrun_demo.language import FIGURES
from vlrun_demo.provider import VOCABULARY
from vlrun_demo.world import images
from vlrun_rec.demo.files import SPLIT_BY, Referent, write_refcoco

SPLITS = {
    "refcoco": {"train", "val", "testA", "testB"},
    "refcoco+": {"train", "val", "testA", "testB"},
    "refcocog": {"train", "val", "test"},
}


@pytest.fixture(scope="module", params=sorted(SPLIT_BY))
def archive(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, some_images: list[Image]
) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    write_refcoco(request.param, folder, some_images)
    return request.param, folder


def contents(archive: tuple[str, Path]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    dataset, folder = archive
    references = load_plain_pickle(folder / f"refs({SPLIT_BY[dataset]}).p")
    return references, json.loads((folder / "instances.json").read_text())


def test_references_have_the_keys_of_the_originals(archive: tuple[str, Path], samples: Path) -> None:
    references, _ = contents(archive)
    (real,) = json.loads((samples / "refcoco" / "refs_unc_first_record.json").read_text())

    for reference in references:
        assert {key: type(value) for key, value in reference.items()} == {
            key: type(value) for key, value in real.items()
        }
        for sentence in reference["sentences"]:
            assert {key: type(value) for key, value in sentence.items()} == {
                key: type(value) for key, value in real["sentences"][0].items()
            }


def test_the_pickle_is_of_protocol_2(archive: tuple[str, Path]) -> None:
    dataset, folder = archive
    content = (folder / f"refs({SPLIT_BY[dataset]}).p").read_bytes()

    assert content[:2] == pickle.PROTO + bytes([2])


def test_references_fit_the_instances(archive: tuple[str, Path]) -> None:
    references, instances = contents(archive)
    images = {image["id"]: image for image in instances["images"]}
    annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
    categories = {category["id"] for category in instances["categories"]}

    assert len(images) == len(instances["images"])
    assert len(annotations) == len(instances["annotations"])
    assert len({reference["ann_id"] for reference in references}) == len(references)
    for reference in references:
        annotation, image = annotations[reference["ann_id"]], images[reference["image_id"]]
        assert annotation["image_id"] == image["id"]
        assert annotation["category_id"] == reference["category_id"]
        assert reference["category_id"] in categories
        stem = image["file_name"].removesuffix(".png")
        assert reference["file_name"].startswith(f"{stem}_")  # the suffix that has to be ignored
        assert reference["file_name"] != image["file_name"]


def test_boxes_lie_inside_their_images(archive: tuple[str, Path]) -> None:
    _, instances = contents(archive)
    sizes = {image["id"]: (image["width"], image["height"]) for image in instances["images"]}

    for annotation in instances["annotations"]:
        x, y, width, height = annotation["bbox"]
        image_width, image_height = sizes[annotation["image_id"]]
        assert x >= 0 <= y
        assert x + width <= image_width
        assert y + height <= image_height
        (polygon,) = annotation["segmentation"]
        assert min(polygon[::2]) == pytest.approx(x, abs=0.03 * width)
        assert max(polygon[1::2]) == pytest.approx(y + height, abs=0.03 * height)


def test_sentences_are_numbered_through_and_clean(archive: tuple[str, Path]) -> None:
    references, _ = contents(archive)
    sentences = [sentence for reference in references for sentence in reference["sentences"]]

    assert [sentence["sent_id"] for sentence in sentences] == list(range(len(sentences)))
    assert [reference["ref_id"] for reference in references] == list(range(len(references)))
    assert all(sentence["tokens"] == sentence["sent"].split() for sentence in sentences)
    assert all(sentence["sent"] == sentence["sent"].lower() for sentence in sentences)
    assert any(sentence["raw"] != sentence["sent"] for sentence in sentences)
    assert {len(reference["sentences"]) for reference in references} == {1, 2, 3}


def test_splits_are_those_of_the_originals_and_share_no_image(archive: tuple[str, Path]) -> None:
    references, _ = contents(archive)
    images: dict[str, set[int]] = {}
    for reference in references:
        images.setdefault(reference["split"], set()).add(reference["image_id"])

    assert set(images) == SPLITS[archive[0]]
    assert sum(map(len, images.values())) == len(set().union(*images.values()))


def test_testa_talks_about_figures_and_testb_about_the_rest(referents: Callable[[str], list[Referent]]) -> None:
    kinds = {
        split: {referent.thing.name in FIGURES for referent in referents("refcoco+") if referent.image.split == split}
        for split in ("train", "val", "testA", "testB")
    }

    assert kinds == {"train": {True, False}, "val": {True, False}, "testA": {True}, "testB": {False}}


def test_test_splits_are_large_enough_for_a_stable_score(referents: Callable[[str], list[Referent]]) -> None:
    for split in ("testA", "testB"):
        found = [len(r.expressions) for r in referents("refcoco+") if r.image.split == split]
        assert sum(found) > 400


def test_the_provider_writes_about_all_images(demo_files: Callable[[str], Path]) -> None:
    references, instances = contents(("refcoco+", demo_files("refcoco+")))

    assert len(instances["images"]) > 0.98 * len(images())  # some scenes hold nothing but twins
    assert {image["id"] for image in instances["images"]} <= {image.number for image in images()}
    assert len([reference for reference in references if reference["split"] == "train"]) > 2500


def test_the_builders_of_real_data_read_the_files(archive: tuple[str, Path], tmp_path: Path) -> None:
    dataset, folder = archive
    wanted = create_plugins().demo_sources()[dataset].builder
    builders = {builder.source: builder for builder in create_plugins().find("dataset", dataset).builders}
    report = builders[wanted].build(folder, tmp_path / "out")
    references, _ = contents(archive)

    assert set(report.counts) == SPLITS[dataset]
    assert sum(report.counts.values()) == sum(len(reference["sentences"]) for reference in references)


def test_the_vocabulary_knows_every_word(referents: Callable[[str], list[Referent]]) -> None:
    wordpiece = WordPiece(VOCABULARY)
    sents = [found.sent for dataset in SPLIT_BY for r in referents(dataset)[::10] for found in r.expressions]

    assert all(wordpiece.tokens(sent) == sent.split() for sent in sents)
    assert "[UNK]" not in wordpiece.tokens("redstar")
    assert wordpiece.size < 500


def test_writing_imports_little(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from vlrun_rec.demo.files import write_refcoco
from vlrun_demo.world import images
write_refcoco("refcoco+", Path({str(tmp_path)!r}), images()[:3])
assert not {{"torch", "PIL"}} & set(sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
