"""The demo's captions in Karpathy's files: the schema of the originals, and what the builder of real data reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vlrun.plugins.manager import create_plugins
from vlrun_demo.language import cleaned
from vlrun_demo.world import FLICKR, RETRIEVAL, images

KARPATHY = {"coco-retrieval": "coco", "flickr30k": "flickr30k"}
IMAGE_SETS = {"coco-retrieval": RETRIEVAL, "flickr30k": FLICKR}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def archives(demo_files: Callable[[str], Path]) -> Mapping[str, Path]:
    """The files of both datasets."""
    return {dataset: demo_files(dataset) for dataset in KARPATHY}


def karpathy(archives: Mapping[str, Path], dataset: str) -> Row:
    content: Row = json.loads((archives[dataset] / f"dataset_{KARPATHY[dataset]}.json").read_text())
    return content


def stem_of(row: Row, key: str) -> str:
    return Path(row[key]).stem


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


@pytest.mark.parametrize("dataset", KARPATHY)
def test_names_in_the_files_are_those_of_the_images(archives: Mapping[str, Path], dataset: str) -> None:
    named = [row["filename"] for row in karpathy(archives, dataset)["images"]]

    assert named == [image.file_name for image in images(IMAGE_SETS[dataset])]
