"""Small files as papers publish them, for the builders of what the demo does not write."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from typing import Any


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _lines(*rows: Any) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


ONE, OTHER = "COCO_val2014_000000000042", "COCO_val2014_000000000007"
STATEMENTS = [
    {"identifier": f"dev-850-{pair}-{number}", "sentence": sentence, "label": label, "synset": "owl"}
    for pair, number, sentence, label in (
        (0, 0, "One owl.", "True"),
        (0, 1, "No owl.", "False"),
        (2, 0, "One owl.", "False"),
    )
]
EXPRESSION = {"img_src": "coco", "img_file": f"{ONE}.jpg", "image_h": 480, "image_w": 640, "gt_boxes": [1, 2.5, 30, 40]}
REFERENCES = [
    {
        "ref_id": ref_id, "ann_id": 500 + ref_id, "image_id": 42, "split": split, "category_id": 1,
        "sent_ids": [ref_id], "file_name": f"{ONE}_{ref_id}.jpg",
        "sentences": [{"tokens": ["owl"], "raw": "OWL", "sent_id": ref_id, "sent": "owl"}],
    }
    for ref_id, split in enumerate(("train", "val"))
]  # fmt: skip
INSTANCES = {
    "images": [{"id": 42, "file_name": f"{ONE}.jpg", "height": 480, "width": 640}],
    "annotations": [
        {"id": 500 + number, "image_id": 42, "category_id": 1, "bbox": [1.5, 2, 30, 40], "iscrowd": 0}
        for number in range(len(REFERENCES))
    ],
    "categories": [{"id": 1, "name": "bird", "supercategory": "animal"}],
}
FLICKR = ["1007129816.jpg", "1007129816.jpg", "36979.jpg"]
CAPTIONS = [
    {"text_id": str(row), "text": f"Owl {row}.", "img_src": "flickr", "img_file": name}
    for row, name in enumerate(FLICKR)
]
OF_IMAGES = [
    {"img_path": name, "id": row, "sentences": ["An owl.", "It flies."]} for row, name in enumerate(FLICKR[1:])
]
KARPATHY = [
    {
        "filepath": "val2014", "filename": f"{name}.jpg", "cocoid": int(name[-3:]), "imgid": number, "split": split,
        "sentids": [*range(6 * number, 6 * number + 6)],
        "sentences": [{"raw": "An owl.", "imgid": number, "sentid": 6 * number + place} for place in range(6)],
    }
    for number, (name, split) in enumerate({ONE: "restval", OTHER: "test"}.items())
]  # fmt: skip

PUBLISHED: Mapping[tuple[str, str], Mapping[str, bytes]] = {
    ("vqav2", "lxmert"): {
        "minival.json": _json(
            [
                {
                    "question_id": 42001, "img_id": ONE, "sent": "Which?", "answer_type": "other",
                    "question_type": "what", "label": {"pug": 1, "dog": 0.3},
                },
                {"question_id": 42002, "img_id": ONE, "sent": "Which?", "label": {}},
            ]
        ),
        "trainval_label2ans.json": _json(["", "dog", "pug"]),
    },
    ("vqav2", "rosita"): {
        "vqa_vqav2_annotations.json": _json(
            {
                split: [
                    {
                        "text_id": str(number), "text": "Red?", "text_set": "vqa", "img_src": "coco", "label": "yes",
                        "img_file": f"{ONE}.jpg", "multi_label": ["yes"] * 9 + ["no"],
                    }
                    for number in numbers
                ]
                for split, numbers in {"val": (1, 2), "minival": (2,)}.items()
            }
        ),
        "answer_vocab.json": _json([{"yes": 0, "no": 1}, {"0": "yes", "1": "no"}]),
        "v2_mscoco_val2014_annotations.json": _json(
            {
                "annotations": [
                    {"question_id": number, "image_id": 42, "answer_type": "yes/no", "question_type": "is it"}
                    for number in (1, 2)
                ]
            }
        ),
    },
    ("gqa", "lxmert"): {
        "train.json": _json(
            [
                {"img_id": "2370799", "question_id": number, "sent": "Red?", "label": {answer: 1.0}}
                for number, answer in {"0099": "no", "0100": "yes"}.items()
            ]
        ),
        "submit.json": _json([{"img_id": "n7", "question_id": "07", "sent": "Red?"}]),
        "trainval_label2ans.json": _json(["no", "yes"]),
    },
    # Not the demo's: they take seconds to write, as they are about all of its pairs at once
    ("nlvr2", "official"): {
        "dev.json": _lines(*STATEMENTS),
        "balanced/balanced_dev.json": _lines(STATEMENTS[0], STATEMENTS[2]),
        "unbalanced/unbalanced_dev.json": _lines(STATEMENTS[1]),
        "annotated_dev_examples.txt": b"One owl.\r\n* hard cardinality\r\n* ellipsis\r\n\r\nNo owl.\r\n* negation\r\n",
    },
    ("nlvr2", "lxmert"): {
        "valid.json": _json(
            [
                {
                    "identifier": row["identifier"], "img0": "dev-850-0-img0", "img1": "dev-850-0-img1",
                    "sent": row["sentence"], "label": number % 2, "uid": f"nlvr2_valid_{number}",
                }
                for number, row in enumerate(STATEMENTS)
            ]
        )
    },
    ("refcoco+", "rosita"): {
        "rec_refcocoplus_annotations.json": _json(
            {
                "train": [{**EXPRESSION, "text": "owl", "text_id": "1"}, {**EXPRESSION, "text": "", "text_id": "2"}],
                "testA": [{**EXPRESSION, "text": "owl"}],
            }
        )
    },
    ("refcocog", "official-google"): {
        "refs(google).p": pickle.dumps(REFERENCES, protocol=2),
        "instances.json": _json(INSTANCES),
    },
    ("flickr30k", "rosita"): {
        "itr_flickr_annotations.json": _json({"test": CAPTIONS}),
        "img_text_map.json": _json(
            {
                "test": [
                    {FLICKR[0]: 0, FLICKR[2]: 1},
                    {"0": FLICKR[0], "1": FLICKR[2]},
                    {"0": 0, "1": 0, "2": 1},
                    {"0": 1, "1": 2},
                ]
            }
        ),
    },
    ("flickr30k", "lxmert-s"): {"flickr30k_test2014.json": _json(OF_IMAGES)},
    ("flickr30k", "volta"): {
        "valid_ann.jsonl": _lines(
            {"sentences": ["A man.", "A hat."], "id": "1007129816", "img_path": "1007129816.jpg"},
            {"sentences": ["A dog."], "id": 36979},
        )
    },
    ("coco-retrieval", "volta"): {
        "train_ann.jsonl": _lines(
            {"sentences": ["A man."], "id": 43}, {"sentences": ["A dog."], "id": 42, "img_path": f"{ONE}.jpg"}
        )
    },
    ("coco-retrieval", "karpathy-five"): {"dataset_coco.json": _json({"dataset": "coco", "images": KARPATHY})},
}  # fmt: skip
"""Dataset and source -> path in the folder of the source -> what is right there."""
