"""Images shared between training and evaluation are counted, whatever the spelling of their ids."""

from __future__ import annotations

from vlrun.data.leaks import evaluation_images, find_leaks, image_key


def test_spellings_of_one_coco_image_have_one_key() -> None:
    assert image_key("COCO_val2014_000000000042") == image_key("000000000042") == "coco:42"
    assert image_key("2400042") == "2400042"
    assert image_key("dev-850-0-img0") == "dev-850-0-img0"


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
