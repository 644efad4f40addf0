"""Demo data as the files of LXMERT's pre-training: captions, and questions with their answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlrun import DemoImage
from vlrun_demo.language import KINDS, answer, answer_words, questions_in_words, sentences

_FILES = ("mscoco_train", "mscoco_nominival", "vgnococo", "mscoco_minival")

_MOVED = {0: "mscoco_nominival", 7: "vgnococo"}
"""Place of an image of train, modulo 15 -> the file that it goes to."""

_TEXTS = {"train": (2, 1), "val": (2, 2)}
"""Captions and questions of an image: more images teach more than more texts, and a question tells little of it."""


def write_lxmert_pretraining(folder: Path, chosen: Sequence[DemoImage]) -> None:
    """Writes ``mscoco_train.json`` and its like, ``all_ans.json`` with every answer, and the names of all classes."""
    answers: Counter[str] = Counter()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _FILES}
    for place, image in enumerate(chosen):
        name = "mscoco_minival" if image.split == "val" else _MOVED.get(place % 15, "mscoco_train")
        num_captions, num_questions = _TEXTS[image.split]
        about = list(questions_in_words(image))
        start = place % max(1, len(about))  # by turns, so that all kinds of questions are asked
        asked = [*about[start:], *about[:start]][:num_questions]
        labels = [{answer_words(question, answer(image, question))[0]: 1.0} for question, _ in asked]
        answers.update(words for label in labels for words in label)
        rows[name].append(
            {
                "img_id": image.id,
                "sentf": {"mscoco": sentences(image, num_captions), "vqa": [text for _, text in asked]},
                "labelf": {"vqa": labels},
            }
        )
    for name, content in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    often = sorted(answers, key=lambda words: (-answers[words], words))
    table = [{"ans": words, "dsets": ["vqa"]} for words in often]
    (folder / "all_ans.json").write_text(json.dumps(table), encoding="utf-8")
    (folder / "objects_vocab.txt").write_text("".join(f"{kind}\n" for kind in KINDS), encoding="utf-8")
