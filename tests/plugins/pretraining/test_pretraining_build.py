"""COCO's official caption files become annotation files, or all that is wrong with them is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError
from vlrun.data.annotations import validate_annotations
from vlrun_pretraining.build import build_official
from vlrun_pretraining.config import CocoCaptionsConfig
from vlrun_pretraining.dataset import CocoCaptions
from vlrun_pretraining.plugin import vlrun_datasets
from vlrun_pretraining.records import CocoCaption


class Official:
    """Two small files in the official layout, to be changed before they are written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Any] = {
            f"captions_{name}.json": {
                "info": {"year": 2014},
                "licenses": [],
                "images": [
                    {"id": number, "file_name": f"COCO_{name}_{number:012d}.jpg", "height": 480, "width": 640}
                    for number in (9, 25)
                ],
                "annotations": [
                    {"id": 48, "image_id": 25, "caption": "A giraffe eats. "},
                    {"id": 49, "image_id": 9, "caption": "A plate of Äpfel"},
                    {"id": 50, "image_id": 25, "caption": "Two trees"},
                ],
            }
            for name in ("train2014", "val2014")
        }

    @property
    def train(self) -> dict[str, Any]:
        content: dict[str, Any] = self.files["captions_train2014.json"]
        return content

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (self.folder / name).write_text(json.dumps(content))
        return self.folder


@pytest.fixture
def official(tmp_path: Path) -> Official:
    return Official(tmp_path / "annotations")


def problems_of(folder: Path) -> list[str]:
    with pytest.raises(DataError) as caught:
        build_official(folder, folder / "out")
    assert not (folder / "out").exists(), "nothing is written"
    return caught.value.problems


def test_captions_of_an_image_lie_together_in_the_order_of_the_images(official: Official, tmp_path: Path) -> None:
    report = build_official(official.write(), tmp_path / "out")
    assert report.counts == {"train": 3, "val": 3}
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert rows == [
        {"id": "49", "text": "A plate of Äpfel", "image": "COCO_train2014_000000000009"},
        {"id": "48", "text": "A giraffe eats. ", "image": "COCO_train2014_000000000025"},
        {"id": "50", "text": "Two trees", "image": "COCO_train2014_000000000025"},
    ]
    assert validate_annotations(tmp_path / "out" / "val.jsonl", CocoCaption) == []


def test_the_folder_above_the_files_will_do(official: Official, tmp_path: Path) -> None:
    official.write()
    assert build_official(tmp_path, tmp_path / "out").counts == {"train": 3, "val": 3}


def test_sizes_blanks_and_images_without_captions_are_remarked(official: Official, tmp_path: Path) -> None:
    official.train["annotations"][1]["caption"] = " "
    official.train["images"].append({"id": 30, "file_name": "COCO_train2014_000000000030.jpg"})
    remarks = build_official(official.write(), tmp_path / "out").remarks
    assert remarks[:3] == (
        "split 'train' has 3 images and 3 captions; published are 82,783 and 414,113",
        "split 'train': 1 images have no caption and are left out",
        "split 'train': 1 captions are blank",
    )


def test_everything_that_is_wrong_is_told_at_once(official: Official) -> None:
    train = official.train
    train["images"].append({"id": "x"})
    train["images"].append(dict(train["images"][0]))
    train["annotations"].append({"id": 48, "image_id": 9, "caption": "again"})
    train["annotations"].append({"id": 51, "image_id": 77, "caption": "of nothing"})
    train["annotations"].append({"id": 52, "image_id": 9})
    official.files["captions_val2014.json"]["annotations"] = "gone"
    path = official.write() / "captions_train2014.json"
    assert problems_of(official.folder) == [
        f"{path}: images, entry 2: id: input should be a valid integer, unable to parse string as an integer (got 'x')",
        f"{path}: images, entry 2: file_name: field required",
        f"{path}: images, entry 3: image 9, file_name 'COCO_train2014_000000000009.jpg', is there twice",
        f"{path}: annotations, entry 3: id 48 is already that of {path}: annotations, entry 0",
        f"{path}: annotations, entry 4: image_id 77 is none of images",
        f"{path}: annotations, entry 5: caption: field required",
        f"{path.parent / 'captions_val2014.json'}: annotations: expected a list, found str",
    ]


def test_a_file_that_is_missing_is_named_with_where_to_get_it(official: Official, tmp_path: Path) -> None:
    (official.write() / "captions_val2014.json").unlink()
    (problem,) = problems_of(official.folder)
    assert "captions_val2014.json is not there. Download http" in problem
    (problem,) = problems_of(tmp_path / "nowhere")
    assert "expected a folder with captions_train2014.json and captions_val2014.json" in problem


def test_a_file_that_was_cut_off_is_named(official: Official) -> None:
    path = official.write() / "captions_train2014.json"
    path.write_text(path.read_text()[:100])
    (problem,) = problems_of(official.folder)
    assert problem.startswith(f"{path}:1: not readable JSON: it ends too early")


def test_an_example_is_a_caption_with_its_image(official: Official, tmp_path: Path) -> None:
    build_official(official.write(), tmp_path / "out")
    config = CocoCaptionsConfig(name="coco-captions", annotations=tmp_path / "out", features="f", evaluate=["val"])
    dataset = CocoCaptions(config, "val")
    assert len(dataset) == 3
    assert (dataset[1].id, dataset[1].image_ids) == ("48", ("COCO_val2014_000000000025",))
    assert dataset[1].target is not None
    assert list(dataset.image_ids()) == ["COCO_val2014_000000000009", *["COCO_val2014_000000000025"] * 2]


def test_missing_files_come_with_the_commands_that_make_them(tmp_path: Path) -> None:
    config = CocoCaptionsConfig(name="coco-captions", annotations=tmp_path, features=tmp_path / "f", evaluate=["val"])
    remedies = {file.path.name: file.remedy for file in config.required_files()}
    assert set(remedies) == {"train.jsonl", "val.jsonl", "f"}
    assert "runner data build coco-captions --from official FOLDER" in remedies["val.jsonl"]
    assert "--from lxmert-tsv" in remedies["f"]


def test_the_plugin_offers_the_builder() -> None:
    entry = next(entry for entry in vlrun_datasets() if entry.name == "coco-captions")
    assert [builder.source for builder in entry.builders] == ["official"]
    assert entry.target == "caption"
