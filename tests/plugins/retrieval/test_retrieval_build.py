"""The builders: published captions become annotation files, or all that is wrong with them is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from vlrun import DataError
from vlrun.data.annotations import validate_annotations
from vlrun_retrieval.records import ImageCaption


def problems_of(build: Callable[..., Any], dataset: str, source: str, path: Path, output: Path) -> list[str]:
    with pytest.raises(DataError) as caught:
        build(dataset, source, path)
    assert not output.exists(), "nothing is written"
    return caught.value.problems


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def assert_captions_lie_together(records: list[dict[str, Any]]) -> None:
    runs = [(image, [record["position"] for record in of_image]) for image, of_image in groupby(records, image_of)]
    assert len({image for image, _ in runs}) == len(runs)
    assert all(positions == list(range(len(positions))) for _, positions in runs)


def image_of(record: dict[str, Any]) -> str:
    return str(record["image"])


# --- Karpathy ---


def test_a_sentence_becomes_a_record_with_its_sentid_and_raw_text(
    build: Any, records: Any, karpathy: Any, tmp_path: Path
) -> None:
    report = build("coco-retrieval", "karpathy", karpathy.write())
    assert report.counts == {"test": 5, "train": 9, "val": 6}
    test = records("test")
    assert test[0] == {"id": "420", "text": "A dog.", "image": "COCO_val2014_000000000042", "position": 0}
    assert [record["text"] for record in test[2:]] == [" two dogs ", "A brown dog\n", "Äpfel"]
    assert [record["position"] for record in records("val")] == [0, 1, 2, 3, 4, 5]
    assert all(validate_annotations(path, ImageCaption) == [] for path in (tmp_path / "out").iterdir())


def test_train_holds_restval_too_in_the_order_of_the_file(build: Any, records: Any, karpathy: Any) -> None:
    remarks = build("coco-retrieval", "karpathy", karpathy.write()).remarks
    images = [image for image, _ in groupby(records("train"), image_of)]
    assert images == ["COCO_val2014_000000058350", "COCO_train2014_000000000009"]
    assert remarks[0].startswith("split 'train' holds Karpathy's 'train' (1 images) and 'restval' (1)")


def test_the_first_five_captions_of_each_image_are_kept(build: Any, records: Any, karpathy: Any) -> None:
    report = build("coco-retrieval", "karpathy-five", karpathy.write())
    assert report.counts == {"test": 5, "train": 9, "val": 5}
    sentences = karpathy.images[3]["sentences"]
    assert [(record["id"], record["text"]) for record in records("val")] == [
        (str(sentence["sentid"]), sentence["raw"]) for sentence in sentences[:5]
    ]
    assert [record["position"] for record in records("val")] == [0, 1, 2, 3, 4]
    assert "1 captions beyond the first 5 of their images are left out" in report.remarks
    assert not any(remark.startswith("split 'val': 1 of 1 images") for remark in report.remarks)


def test_images_with_other_than_five_captions_and_other_sizes_are_remarked(build: Any, karpathy: Any) -> None:
    karpathy.images[0]["sentences"][1]["raw"] = " "
    remarks = build("coco-retrieval", "karpathy", karpathy.write()).remarks
    starts = (
        "split 'test' has 1 images; published are 5,000",
        "split 'test': 1 captions are blank",
        "split 'train' has 2 images; published are 113,287",
        "split 'train': 1 of 2 images have another number of captions than 5 (1 with 4);",
        "split 'val' has 1 images; published are 5,000",
        "split 'val': 1 of 1 images have another number of captions than 5 (1 with 6);",
    )
    assert len(remarks) == 1 + len(starts)
    assert all(remark.startswith(start) for remark, start in zip(remarks[1:], starts, strict=True))


def test_flickr30k_has_no_cocoid_and_names_like_numbers(
    build: Any, records: Any, karpathy: Any, tmp_path: Path
) -> None:
    for image, name in zip(karpathy.images, ("1007129816", "109671650", "36979", "10350842"), strict=True):
        del image["cocoid"]
        image.update(filename=f"{name}.jpg", split="test" if image["split"] == "restval" else image["split"])
    karpathy.content["dataset"] = "flickr30k"
    karpathy.path = tmp_path / "dataset_flickr30k.json"
    karpathy.write()
    report = build("flickr30k", "karpathy", tmp_path)
    assert report.counts == {"test": 10, "train": 4, "val": 6}
    assert [record["image"] for record in records("test")] == ["1007129816"] * 5 + ["109671650"] * 5
    assert not any("restval" in remark for remark in report.remarks)


def test_imgid_in_the_place_of_cocoid_is_noticed(build: Any, karpathy: Any, tmp_path: Path) -> None:
    karpathy.images[0]["cocoid"] = karpathy.images[0]["imgid"]
    karpathy.images[1]["sentences"][2]["imgid"] = 77
    problems = problems_of(build, "coco-retrieval", "karpathy", karpathy.write(), tmp_path / "out")
    assert problems == [
        f"{karpathy.path}: images, entry 0: cocoid 0 is not the image of filename 'COCO_val2014_000000000042.jpg'",
        f"{karpathy.path}: images, entry 1: sentence 583502 belongs to imgid 77, not to 5",
    ]


def test_all_problems_of_a_file_are_reported_at_once(build: Any, karpathy: Any, tmp_path: Path) -> None:
    first, second, third, fourth = karpathy.images
    del first["filename"]
    second["sentences"][0]["raw"] = None
    third["sentences"] = []
    fourth["split"] = "dev"
    karpathy.images.append({**third, "sentences": []})
    found = problems_of(build, "coco-retrieval", "karpathy", karpathy.write(), tmp_path / "out")
    place = f"{karpathy.path}: images, entry"
    assert found == [
        f"{place} 0: filename: field required",
        f"{place} 1: sentences.0.raw: input should be a valid string (got None)",
        f"{place} 2: image 'COCO_train2014_000000000009' has no caption",
        f"{place} 3: unknown split 'dev' (known: train, restval, val, test)",
        f"{place} 4: image 'COCO_train2014_000000000009' has no caption",
        f"{place} 4: image 'COCO_train2014_000000000009' is already that of {place} 2",
    ]


def test_a_sentid_that_is_there_twice_is_an_error(build: Any, karpathy: Any, tmp_path: Path) -> None:
    karpathy.images[1]["sentences"][0]["sentid"] = karpathy.images[2]["sentences"][0]["sentid"]
    (problem,) = problems_of(build, "coco-retrieval", "karpathy", karpathy.write(), tmp_path / "out")
    assert problem == "split 'train': 2 captions have the id '90'"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dataset": "flickr30k", "images": []}, "holds 'flickr30k', and coco-retrieval needs 'coco'"),
        ({"dataset": "coco"}, "images: expected a list, found NoneType"),
        ([], "expected an object, found list"),
        ({"dataset": "coco", "images": []}, "the source holds no captions"),
    ],
    ids=["other dataset", "no images", "list", "empty"],
)
def test_a_file_of_another_kind_is_refused(
    content: Any, message: str, build: Any, karpathy: Any, tmp_path: Path
) -> None:
    karpathy.content = content
    (problem,) = problems_of(build, "coco-retrieval", "karpathy", karpathy.write(), tmp_path / "out")
    assert message in problem


def test_a_file_that_was_cut_off_is_refused(build: Any, karpathy: Any, tmp_path: Path) -> None:
    path = karpathy.write()
    path.write_text(path.read_text()[:200])
    (problem,) = problems_of(build, "coco-retrieval", "karpathy", path, tmp_path / "out")
    assert "was it cut off?" in problem


@pytest.mark.parametrize(
    ("source", "name", "content"),
    [("rosita", "itr_flickr_annotations.json", {"test": []}), ("lxmert-s", "flickr30k_test2014.json", [])],
)
def test_a_split_without_captions_is_refused(source: str, name: str, content: Any, build: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    problems = problems_of(build, "flickr30k", source, tmp_path, tmp_path / "out")
    assert problems == ["split 'test': the source holds no captions of it"]


@pytest.mark.parametrize("source", ["karpathy", "rosita", "lxmert-s", "volta"])
def test_a_folder_without_the_files_is_refused(source: str, build: Any, tmp_path: Path) -> None:
    (problem,) = problems_of(build, "flickr30k", source, tmp_path, tmp_path / "out")
    assert problem.startswith(f"{tmp_path}: expected ")


# --- ROSITA ---


@pytest.mark.golden
def test_the_authors_layout_is_translated(golden: Path, build: Any, records: Any) -> None:
    folder = golden / "rosita/mini/annotations"
    report = build("coco-retrieval", "rosita", folder)
    content = json.loads((folder / "itr-coco/itr_coco_annotations.json").read_text())
    ours = {"train": "train", "test": "test1k"}
    assert report.counts == {ours[split]: len(rows) for split, rows in content.items()}
    assert report.remarks[0] == "split 'test1k' is ROSITA's 'test'"
    assert not any("img_text_map" in remark for remark in report.remarks), "it is there, and it fits"
    for split, rows in content.items():
        found = records(ours[split])
        assert [(record["id"], record["text"]) for record in found] == [(row["text_id"], row["text"]) for row in rows]
        assert [f"{record['image']}.jpg" for record in found] == [row["img_file"] for row in rows]
        assert_captions_lie_together(found)


def test_the_large_test_split_of_rosita_is_test(build: Any, records: Any, rosita: Any) -> None:
    report = build("coco-retrieval", "rosita", rosita.write())
    assert report.counts == {"train": 6, "test1k": 6, "test": 6}
    assert report.remarks[:2] == ("split 'test1k' is ROSITA's 'test'", "split 'test' is ROSITA's 'testall'")
    assert records("test")[3]["image"] == "COCO_val2014_000000000007"
    assert not any("share" in remark for remark in report.remarks), "one test split lies within the other"


def test_a_missing_map_is_remarked(build: Any, rosita: Any) -> None:
    path = rosita.write(with_map=False) / "itr_coco_annotations.json"
    assert build("coco-retrieval", "rosita", path).remarks[0] == (
        f"{rosita.folder}/img_text_map.json is not there, so the order of the images was not checked"
    )


def test_a_map_that_contradicts_the_rows_is_an_error(build: Any, rosita: Any, tmp_path: Path) -> None:
    one, other = "COCO_val2014_000000000009.jpg", "COCO_val2014_000000000008.jpg"
    rosita.maps["train"] = [{one: 1, other: 0}, {"0": other, "1": one}, {"0": 0}, {"0": 3, "1": 9}]
    rosita.maps["test"] = rosita.maps["testall"][:3]
    problems = problems_of(build, "coco-retrieval", "rosita", rosita.write(), tmp_path / "out")
    place = f"{rosita.folder}/img_text_map.json: split"
    assert problems[:4] == [
        f"{place} 'train': image of file '{one}': 1, in the rows 0",
        f"{place} 'train': image of file '{other}': 0, in the rows 1",
        f"{place} 'train': file of image '0': '{other}', in the rows '{one}'",
        f"{place} 'train': file of image '1': '{one}', in the rows '{other}'",
    ]
    assert problems[4] == f"{place} 'train': image of row '1': None, in the rows 0"
    assert problems[9:] == [
        f"{place} 'train': row of image '0': 3 is none of its rows",
        f"{place} 'train': row of image '1': 9 is none of its rows",
        f"{place} 'test': expected a list of four objects",
    ]


def test_captions_that_do_not_lie_together_are_an_error(build: Any, rosita: Any, tmp_path: Path) -> None:
    rows = rosita.rows["train"]
    rows[1], rows[5] = rows[5], rows[1]
    problems = problems_of(build, "coco-retrieval", "rosita", rosita.write(with_map=False), tmp_path / "out")
    place = f"{rosita.folder}/itr_coco_annotations.json: split 'train', entry"
    assert problems == [
        f"{place} 2: image 'COCO_val2014_000000000009' is already that of {place} 0",
        f"{place} 3: image 'COCO_val2014_000000000008' is already that of {place} 1",
        f"{place} 5: image 'COCO_val2014_000000000009' is already that of {place} 0",
    ]


def test_rows_without_unique_ids_are_numbered_within_their_image(build: Any, records: Any, rosita: Any) -> None:
    del rosita.rows["train"][2]["text_id"]
    remarks = build("coco-retrieval", "rosita", rosita.write()).remarks
    assert remarks[0] == "split 'train' has no unique text_id; its captions are called image#position"
    assert [record["id"] for record in records("train")][2:4] == [
        "COCO_val2014_000000000009#2",
        "COCO_val2014_000000000008#0",
    ]


def test_damaged_rows_and_unknown_splits_are_reported_together(build: Any, rosita: Any, tmp_path: Path) -> None:
    del rosita.rows["train"][1]["text"]
    rosita.rows["trainall"] = []
    problems = problems_of(build, "coco-retrieval", "rosita", rosita.write(), tmp_path / "out")
    path = f"{rosita.folder}/itr_coco_annotations.json"
    assert problems == [
        f"{path}: split 'train', entry 1: text: field required",
        f"{path}: unknown split 'trainall' (known: train, test, testall)",
    ]


# --- LXMERT-S ---


@pytest.mark.golden
def test_the_lists_of_lxmert_s_are_flickr30k(golden: Path, build: Any, records: Any) -> None:
    folder = golden / "lxmert_s/mini_data/image_retrieval"
    report = build("flickr30k", "lxmert-s", folder)
    source = json.loads((folder / "flickr30k_test2014.json").read_text())
    assert report.counts["test"] == sum(len(row["sentences"]) for row in source)
    assert report.remarks[0] == "there is no split 'val': what LXMERT-S's code calls 'valid' is 'test'"
    captions = [
        (row["img_path"].removesuffix(".jpg"), place, text)
        for row in source
        for place, text in enumerate(row["sentences"])
    ]
    assert records("test") == [
        {"id": f"{image}#{place}", "text": text, "image": image, "position": place} for image, place, text in captions
    ]
    assert_captions_lie_together(records("train"))


# --- VOLTA ---


def test_rows_of_flickr30k_have_a_name(build: Any, records: Any, tmp_path: Path) -> None:
    rows = [
        {"sentences": ["A man.", "A hat."], "id": "1007129816", "img_path": "1007129816.jpg"},
        {"sentences": ["A dog."], "id": 36979},
    ]
    write_lines(tmp_path / "valid_ann.jsonl", rows)
    assert build("flickr30k", "volta", tmp_path).counts == {"val": 3}
    assert [(record["id"], record["image"]) for record in records("val")] == [
        ("1007129816#0", "1007129816"),
        ("1007129816#1", "1007129816"),
        ("36979#0", "36979"),
    ]


def test_rows_of_coco_may_have_a_number_alone(build: Any, records: Any, tmp_path: Path) -> None:
    for name in ("train", "test"):
        rows = [
            {"sentences": ["A man."], "id": 42 if name == "test" else 43},
            {
                "sentences": ["A dog."],
                "id": 391895 + len(name),
                "img_path": f"COCO_val2014_{391895 + len(name):012d}.jpg",
            },
        ]
        write_lines(tmp_path / f"{name}_ann.jsonl", rows)
    remarks = build("coco-retrieval", "volta", tmp_path).remarks
    assert [record["image"] for record in records("test")] == ["COCO_val2014_000000000042", "COCO_val2014_000000391899"]
    assert [record["image"] for record in records("train")] == ["000000000043", "COCO_val2014_000000391900"]
    assert remarks[0].startswith("1 images of 'train' have a number and no file name")


def test_a_number_of_another_image_than_the_file_is_an_error(build: Any, tmp_path: Path) -> None:
    rows = [{"sentences": ["A man."], "id": 7, "img_path": "COCO_val2014_000000000042.jpg"}, {"id": 8}]
    path = write_lines(tmp_path / "test_ann.jsonl", rows)
    problems = problems_of(build, "coco-retrieval", "volta", tmp_path, tmp_path / "out")
    assert problems == [
        f"{path}:1: id 7 is not the image of img_path 'COCO_val2014_000000000042.jpg'",
        f"{path}:2: sentences: field required",
    ]


def test_splits_that_share_images_are_remarked(build: Any, tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_lines(tmp_path / f"{name}_ann.jsonl", [{"sentences": ["A man."], "id": 42}])
    remarks = build("coco-retrieval", "volta", tmp_path).remarks
    assert remarks[-1].startswith("splits 'train' and 'test' share 1 images"), "although their ids differ"


@pytest.mark.samples
def test_the_real_test_captions_of_flickr30k(samples: Path, build: Any, records: Any, tmp_path: Path) -> None:
    source = tmp_path / "annotations"
    source.mkdir()
    for name, sample in {"test_ann.jsonl": "test_ann.jsonl", "valid_ann.jsonl": "valid_ann.subset.jsonl"}.items():
        (source / name).write_bytes((samples / "flickr30k" / sample).read_bytes())
    report = build("flickr30k", "volta", tmp_path)
    assert report.counts == {"val": 2015, "test": 5000}
    assert report.remarks == ("split 'val' has 403 images; published are 1,014",)
    assert_captions_lie_together(records("test"))
    assert len({record["image"] for record in records("test")}) == 1000
    assert validate_annotations(tmp_path / "out/test.jsonl", ImageCaption) == []


@pytest.mark.samples
def test_real_coco_rows_of_one_caption_each(samples: Path, build: Any, records: Any, tmp_path: Path) -> None:
    content = (samples / "coco_captions/xflickrco_en_coco_test_1cap.subset.jsonl").read_bytes()
    (tmp_path / "test_ann.jsonl").write_bytes(content)
    report = build("coco-retrieval", "volta", tmp_path)
    assert report.counts == {"test": 701}
    assert "701 of 701 images have another number of captions than 5 (701 with 1)" in report.remarks[-1]
    assert records("test")[0]["image"] == "COCO_val2014_000000391895"
