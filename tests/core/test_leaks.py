"""Images shared between training and evaluation are counted, whatever the spelling of their ids."""

from __future__ import annotations

import pytest

from vlrun.data.declared import Declared, unreadable
from vlrun.data.identities import Identities, image_key, qualified
from vlrun.data.leaks import describe_pairs, evaluation_images, find_leaks, meetings


def table(*groups: list[str]) -> Identities:
    from pathlib import Path

    return Identities(groups, Path("image_identities.jsonl"), "0" * 64)


def test_spellings_of_one_coco_image_have_one_key() -> None:
    assert image_key("COCO_val2014_000000000042") == image_key("000000000042") == "coco:42"
    assert image_key("2400042") == "2400042"
    assert image_key("dev-850-0-img0") == "dev-850-0-img0"


def test_a_bare_number_gets_the_collection_of_its_dataset() -> None:
    assert qualified("2400042", "visual-genome") == "visual-genome:2400042"
    assert qualified("n161313", "visual-genome") == "n161313"
    assert qualified("000000000042", "visual-genome") == "000000000042"
    assert qualified("2400042", None) == "2400042"
    assert qualified("9" * 5000, "visual-genome") == "9" * 5000, "no number that Python reads"


def test_each_split_says_who_has_seen_how_many_of_its_images() -> None:
    leaks = find_leaks(
        training={"vqa": ["COCO_val2014_000000000001", "COCO_val2014_000000000002"], "rec": ["000000000003"]},
        evaluation={
            ("vqa", "minival"): ["COCO_val2014_000000000002", "COCO_val2014_000000000003"],
            ("rec", "val"): ["000000000009"],
            ("nlvr2", "dev"): ["dev-1-0-img0"],
        },
        pretraining=["dev-*"],
    )
    assert [(leak.task, leak.split, dict(leak.seen)) for leak in leaks] == [
        ("vqa", "minival", {"training of vqa": 1, "training of rec": 1}),
        ("nlvr2", "dev", {"pre-training (dev-*)": 1}),
    ]
    assert leaks[0].mark == "1 of 2 images seen in training of vqa, 1 of 2 images seen in training of rec"


def test_what_a_cleaned_training_set_leaves_out() -> None:
    assert evaluation_images([["COCO_val2014_000000000002"], ["n7"]]) == {"coco:2", "n7"}


# --- one image, several collections ---


def test_an_image_is_found_in_another_collection() -> None:
    """One way or the other, and from Visual Genome to Flickr by way of COCO."""
    same = table(["COCO_train2014_000000000042", "flickr:900", "visual-genome:7"])
    for trained, evaluated in (
        ("visual-genome:7", "COCO_train2014_000000000042"),
        ("000000000042", "flickr:900"),
        ("flickr:900", "visual-genome:7"),
    ):
        evaluation = {("task", "test"): [evaluated, "other"]}
        assert find_leaks({"x": [trained]}, evaluation) == []
        (leak,) = find_leaks({"x": [trained]}, evaluation, identities=same)
        assert leak.mark == "1 of 2 images seen in training of x"
        assert evaluation_images([[evaluated]], same) == {same.key(trained)}


def test_collections_that_may_overlap_are_named_per_split() -> None:
    coco, genome, photo = "COCO_train2014_000000000001", "visual-genome:1", "flickr:1"
    met = meetings(
        {"vqa": [coco], "gqa": [genome]},
        {("vqa", "val"): [coco], ("gqa", "testdev"): ["n1"], ("itr", "test"): [photo], ("nlvr2", "dev"): ["dev-1"]},
    )
    said = {place[0]: describe_pairs(pairs) for place, pairs in met.items()}
    assert said == {
        "vqa": "COCO and Visual Genome",
        "gqa": "",
        "itr": "COCO and Flickr, Visual Genome and Flickr",
        "nlvr2": "",
    }


def test_what_weights_have_seen_meets_the_evaluation_too() -> None:
    place = ("vqa", "val")
    coco = {place: ["COCO_val2014_000000000001"]}
    assert meetings({}, coco, ["COCO_*"])[place] == set()
    assert meetings({}, coco, ["visual-genome:*"])[place] == {frozenset({"coco", "visual-genome"})}
    assert meetings({}, coco, ["visual-genome:* except COCO_*"])[place] == set()  # none of them is COCO's
    assert meetings({}, coco, ["flickr:12", "x", "dev-*"])[place] == {frozenset({"coco", "flickr"})}


# --- what weights are declared to have seen ---

LXMERT = ["COCO_train2014_*", "COCO_val2014_* except vqav2/minival", "visual-genome:* except COCO_*"]


def counts(entries: list[str], images: list[str], same: Identities | None = None, **lists: set[str]) -> tuple[int, int]:
    of_splits = {("vqav2", split): keys for split, keys in lists.items()}
    seen = Declared(entries).seen(images, same or Identities(), of_splits)
    return seen.certainly, seen.possibly


def test_a_split_that_is_excepted_decides_where_its_list_is_there() -> None:
    images = [f"COCO_val2014_{number:012d}" for number in (1, 2, 3)]
    assert counts(LXMERT, images) == (0, 3)
    assert counts(LXMERT, images, minival={"coco:1", "coco:2"}) == (1, 0)
    assert counts(LXMERT, ["COCO_train2014_000000000009"]) == (1, 0)


def test_a_collection_that_is_excepted_needs_the_table() -> None:
    same = table(["COCO_train2014_000000000042", "visual-genome:7"], ["COCO_val2014_000000000043", "visual-genome:8"])
    images = ["visual-genome:7", "visual-genome:8", "visual-genome:9", "n7"]
    assert counts(LXMERT, images) == (0, 3)
    assert counts(LXMERT, images, same) == (2, 1)  # 7 as COCO's, 9 as Visual Genome's own; 8 may be minival's
    assert counts(LXMERT, images, same, minival={"coco:43"}) == (2, 0)


def test_what_is_only_possible_is_said_to_be() -> None:
    entries = ["possibly COCO_train2014_*", "COCO_train2014_000000000001"]
    images = ["COCO_train2014_000000000001", "COCO_train2014_000000000002", "COCO_val2014_000000000003"]
    assert counts(entries, images) == (1, 1)
    (leak,) = find_leaks({}, {("vqa", "val"): images}, entries)
    where = "pre-training (possibly COCO_train2014_*, 1 images by id)"
    assert leak.mark == f"1 of 3 images seen in {where}, 1 of 3 possibly seen in {where}"


def test_a_name_of_coco_2017_says_no_part_without_the_table() -> None:
    assert counts(["COCO_train2014_*"], ["000000000042"]) == (0, 1)
    assert counts(["COCO_train2014_*"], ["000000000042"], table(["COCO_train2014_000000000042", "flickr:9"])) == (1, 0)
    assert counts(["COCO_train2014_*"], ["000000000042"], table(["COCO_val2014_000000000042", "flickr:9"])) == (0, 0)


def test_bare_numbers_in_older_files_still_count() -> None:
    assert counts(["2400042"], ["visual-genome:2400042", "visual-genome:1"]) == (1, 0)
    assert counts(["24*"], ["visual-genome:2400042", "visual-genome:1"]) == (1, 0)


@pytest.mark.parametrize("entry", ["COCO_* except", "perhaps COCO_*", "COCO_* but COCO_val*"])
def test_what_is_no_rule_is_found(entry: str) -> None:
    assert unreadable([entry, "COCO_*", "a", *LXMERT]) == [entry]
