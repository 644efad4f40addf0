"""The table of image identities: made of the published files, checked, found under the data root, used by runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrun.cli import main
from vlrun.data.identities import Identities, qualified, read_identities
from vlrun.data.identity_sources import build_identities
from vlrun.errors import DataError


def genome(number: int, coco: int | None = None, photo: int | None = None) -> dict[str, Any]:
    url = f"https://cs.stanford.edu/people/rak248/VG_100K_2/{number}.jpg"
    return {"width": 800, "url": url, "height": 600, "image_id": number, "coco_id": coco, "flickr_id": photo}


def coco(number: int, part: str, photo: int) -> dict[str, Any]:
    name = f"COCO_{part}_{number:012d}.jpg"
    return {
        "license": 3,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/{part}/{name}",
        "height": 360,
        "width": 640,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://farm9.staticflickr.com/8186/{photo}_4e622c8349_z.jpg",
        "id": number,
    }


GENOME = [genome(1), genome(7, coco=42), genome(8, photo=901), genome(9, coco=44, photo=902), genome(10, photo=903)]
TRAIN = [coco(42, "train2014", 36979), coco(43, "train2014", 901)]
VAL = [coco(44, "val2014", 902)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "official"
    (folder / "annotations").mkdir(parents=True)
    (folder / "image_data.json").write_text(json.dumps(GENOME))
    for part, images in (("train2014", TRAIN), ("val2014", VAL)):
        content = {"info": {}, "images": images, "licenses": [], "annotations": [{"image_id": 42, "id": 1}]}
        (folder / "annotations" / f"captions_{part}.json").write_text(json.dumps(content))
    return folder


def rewritten(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_table_joins_three_collections(source: Path, tmp_path: Path) -> None:
    report = build_identities(source, tmp_path / "table.jsonl")
    same = read_identities(report.path)
    assert same.key("visual-genome:7") == same.key("000000000042") == same.key("flickr:36979")  # VG -> COCO -> Flickr
    assert same.key("visual-genome:8") == same.key("COCO_train2014_000000000043")  # by their photograph alone
    assert same.key("visual-genome:9") == same.key("flickr:902") == same.key("coco:44")
    assert same.key("visual-genome:10") == same.key("flickr:903")
    assert len({same.key(f"visual-genome:{number}") for number in (1, 7, 8, 9, 10)}) == 5
    assert same.key("visual-genome:1") == "visual-genome:1"
    assert "COCO_train2014_000000000042" in same.names("visual-genome:7")
    assert report.images == 4
    assert report.shared == {
        ("visual-genome", "coco"): 3,
        ("visual-genome", "flickr"): 4,
        ("coco", "flickr"): 3,
    }


def test_the_table_says_what_it_is_made_of_and_is_the_same_again(source: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    build_identities(source, one)
    rewritten(source / "image_data.json", lambda rows: rows[0].update(width=1))
    build_identities(source, other)
    header, *lines = one.read_text().splitlines()
    assert lines == other.read_text().splitlines()[1:]
    assert header != other.read_text().splitlines()[0]
    sources = json.loads(header)["sources"]
    assert [entry["images"] for entry in sources] == [2, 1, 5]
    assert [entry["file"] for entry in sources] == [
        "captions_train2014.json",
        "captions_val2014.json",
        "image_data.json",
    ]
    assert read_identities(one).sha256 != read_identities(other).sha256
    rewritten(source / "image_data.json", lambda rows: rows[0].update(width=800))
    build_identities(source, other)
    assert other.read_bytes() == one.read_bytes()


def test_instances_do_as_well_and_their_outlines_are_not_parsed(source: Path, tmp_path: Path) -> None:
    folder = source / "annotations"
    text = (folder / "captions_train2014.json").read_text()
    (folder / "instances_train2014.json").write_text(text.partition('"licenses"')[0] + '"annotations": [no JSON')
    (folder / "captions_train2014.json").unlink()
    assert build_identities(source, tmp_path / "table.jsonl").images == 4


def test_what_may_surprise_is_a_remark(source: Path, tmp_path: Path) -> None:
    rewritten(source / "image_data.json", lambda rows: rows.extend([genome(11, coco=44), genome(12, coco=547168)]))
    remarks = "\n".join(build_identities(source, tmp_path / "table.jsonl").remarks)
    assert "1 images of Visual Genome name neither coco_id nor flickr_id" in remarks
    assert "1 images of Visual Genome have a coco_id that is in neither train2014 nor val2014" in remarks
    assert "1 images have two ids or more in Visual Genome itself (at most 2)" in remarks
    assert "image_data.json lists 7 images; published are 108,077" in remarks


@pytest.mark.parametrize(
    "name", ["image_data.json", "annotations/captions_train2014.json", "annotations/captions_val2014.json"]
)
def test_a_file_that_is_not_there_is_named_with_where_to_get_it(source: Path, tmp_path: Path, name: str) -> None:
    (source / name).unlink()
    with pytest.raises(DataError, match=rf"{Path(name).name}.*is not there. Download http"):
        build_identities(source, tmp_path / "table.jsonl")
    assert not (tmp_path / "table.jsonl").exists()


DAMAGES: list[tuple[str, Callable[[Any], None], str]] = [
    ("image_data.json", lambda rows: rows[1].pop("coco_id"), r"image_data.json, entry 1: coco_id: field required"),
    ("image_data.json", lambda rows: rows[2].update(flickr_id="x"), r"entry 2: flickr_id: .*\(got 'x'\)"),
    ("image_data.json", lambda rows: rows[2].update(flickr_id=0), r"entry 2: flickr_id: .*\(got 0\)"),
    ("image_data.json", lambda rows: rows.append(genome(7)), r"entry 5: image_id: image 7 is there twice"),
    ("image_data.json", lambda rows: rows.clear(), r"image_data.json: the list is empty"),
    ("annotations/captions_val2014.json", lambda it: it.pop("images"), r"there is no list 'images' in it"),
    ("annotations/captions_val2014.json", lambda it: it["images"].clear(), r"images: the list is empty"),
    (
        "annotations/captions_val2014.json",
        lambda it: it["images"][0].update(flickr_url="http://flickr.com/a.jpg"),
        r"captions_val2014.json: images, entry 0: flickr_url: there is no number of a photograph in it",
    ),
    (
        "annotations/captions_val2014.json",
        lambda it: it["images"][0].update(file_name="COCO_train2014_000000000044.jpg"),
        r"entry 0: file_name: expected COCO_val2014_000000000044.jpg",
    ),
    (
        "annotations/captions_train2014.json",
        lambda it: it["images"].append(coco(42, "train2014", 5)),
        r"entry 2: id: image 42 is there twice",
    ),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_damaged_entries_are_named_with_their_place(
    source: Path, tmp_path: Path, name: str, damage: Callable[[Any], None], message: str
) -> None:
    rewritten(source / name, damage)
    with pytest.raises(DataError, match=message):
        build_identities(source, tmp_path / "table.jsonl")
    assert not (tmp_path / "table.jsonl").exists()


@pytest.mark.parametrize("name", ["image_data.json", "annotations/captions_train2014.json"])
def test_a_file_that_was_cut_off_is_named(source: Path, tmp_path: Path, name: str) -> None:
    text = (source / name).read_text()
    (source / name).write_text(text[:200])
    with pytest.raises(DataError, match=rf"{name}: cut off before its end"):
        build_identities(source, tmp_path / "table.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], r"it should list 4 images and lists 3: was it cut off"),
        (lambda lines: [*lines[:-1], lines[-1][:10]], r":5: not readable JSON"),
        (lambda lines: [*lines[:-1], lines[1]], r":5: '.*' is on line 2 already"),
        (lambda lines: [*lines[:-1], '["a"]'], r":5: expected a list of two or more names"),
        (lambda lines: lines[1:], r"not a table of image identities"),
        (lambda lines: [], r"not a table of image identities"),
    ],
)
def test_a_damaged_table_is_refused(source: Path, tmp_path: Path, change: Any, message: str) -> None:
    path = build_identities(source, tmp_path / "table.jsonl").path
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    with pytest.raises(DataError, match=message):
        read_identities(path)


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert main(["data", "build", "image-identities", "--from", "official", str(source), str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{out}/image_identities.jsonl  4 images with more than one name" in printed
    assert "3 images are in visual-genome and in coco" in printed
    assert main(["data", "validate", "image-identities", str(out / "image_identities.jsonl")]) == 0
    assert main(["data", "sources", "image-identities"]) == 0
    assert "--from official: folder with Visual Genome's image_data.json" in capsys.readouterr().out
    assert main(["data", "build", "image-identities", "--from", "karpathy", str(source), str(out)]) == 2
    assert "its only source is 'official'" in capsys.readouterr().err
    assert main(["data", "build", "image-identities", "--from", "official", str(tmp_path / "none"), str(out)]) == 5


def test_the_numbers_of_real_flickr30k_images_meet_those_of_coco(samples: Path, source: Path, tmp_path: Path) -> None:
    """Every real name becomes a photograph, and none an image of Visual Genome with the same number."""
    rows = (samples / "flickr30k" / "test_ann.jsonl").read_text().splitlines()
    stems = [Path(json.loads(row)["img_path"]).stem for row in rows]
    assert len(stems) > 0
    first = int(stems[0])
    rewritten(source / "annotations/captions_val2014.json", lambda it: it["images"].append(coco(99, "val2014", first)))
    rewritten(source / "image_data.json", lambda rows: rows.extend([genome(13, coco=99), genome(int(stems[1]))]))
    same = read_identities(build_identities(source, tmp_path / "table.jsonl").path)
    keys = [same.key(qualified(stem, "flickr")) for stem in stems]
    assert len(set(keys)) == len(stems)
    assert keys[0] == same.key("visual-genome:13") == "coco:99"
    assert keys[1] != same.key(f"visual-genome:{stems[1]}")


def test_real_coco_names_are_those_that_the_table_has(samples: Path) -> None:
    rows = (samples / "coco_captions" / "xflickrco_en_coco_test_1cap.subset.jsonl").read_text().splitlines()
    names = [Path(json.loads(row)["img_path"]).stem for row in rows]
    same = Identities([[name, f"flickr:{index}"] for index, name in enumerate(names, 1)])
    assert [same.key(f"coco:{json.loads(row)['id']}") for row in rows] == [same.key(name) for name in names]
    assert all(list(same.names(f"flickr:{index}"))[2] == name for index, name in enumerate(names, 1))
