"""LXMERT's own pre-training files -> one JSON-lines file per split, and the answers that can be given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlrun import BuildReport, DataError, canonical_image_id, first_few
from vlrun.blocks.answering import pretraining_spelling
from vlrun.blocks.answers import AnswerVocabulary, read_answers, write_answers
from vlrun.blocks.object_tags import read_class_names
from vlrun.data.annotations import write_annotations
from vlrun.data.json_stream import list_items
from vlrun.files import write_text
from vlrun_pretraining.records import LxmertText
from vlrun_pretraining.sources import (
    ANSWERS_FILE,
    CLASS_NAMES,
    CLASS_NAMES_FILE,
    LXMERT_ANSWERS,
    LXMERT_OBTAIN,
    LXMERT_SPLITS,
)

_MOST_PROBLEMS = 50


def build_lxmert(folder: Path, output: Path) -> BuildReport:
    """Translates ``mscoco_train.json`` and its like, and ``all_ans.json``, of the folder ``data/lxmert`` of LXMERT.

    ``objects_vocab.txt``, the names of the detector's classes, is taken along if it is there.

    Every sentence becomes an item. Answers are spelled as the table has them; those that it does not have are left out,
    as LXMERT leaves them out (``lxmert_data.py`` 61-72), and counted in a remark. One image is held at a time.

    Raises:
        DataError: a file is missing or damaged, or labels do not fit the sentences.
    """
    names = [LXMERT_ANSWERS, *(f"{split}.json" for split in LXMERT_SPLITS)]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise DataError(f"{folder}: {', '.join(missing)} is not there. {LXMERT_OBTAIN}")
    answers = read_answers(folder / LXMERT_ANSWERS)
    classes = read_class_names(folder / CLASS_NAMES) if (folder / CLASS_NAMES).is_file() else []
    _check(folder)
    unknown: Counter[str] = Counter()
    counts = {
        split: write_annotations(
            output / f"{split}.jsonl", _records(folder / f"{split}.json", answers, unknown), LxmertText
        )
        for split in LXMERT_SPLITS
    }
    write_answers(output / ANSWERS_FILE, list(answers))
    if classes:
        write_text(output / CLASS_NAMES_FILE, "".join(f"{name}\n" for name in classes))
    remarks = []
    if unknown:
        shown = ", ".join(f"'{answer}'" for answer, _ in unknown.most_common(3))
        remarks.append(
            f"{unknown.total():,} answers are none of the {len(answers):,} that can be given, such as {shown}; "
            "they are left out"
        )
    return BuildReport(counts, tuple(remarks))


def _check(folder: Path) -> None:
    """Reads everything once, so that all problems are told before a word is written."""
    problems: list[str] = []
    for split in LXMERT_SPLITS:
        path = folder / f"{split}.json"
        images: dict[str, int] = {}
        texts = 0
        for number, datum in enumerate(_items(path)):
            found = list(_problems(datum))
            if not found:
                first = images.setdefault(datum["img_id"], number)
                found = [f" ('{datum['img_id']}'): the same image as in entry {first}"] if first != number else []
                texts += sum(map(len, datum["sentf"].values()))
            problems += [f"{path}: entry {number}{problem}" for problem in found]
            if len(problems) > _MOST_PROBLEMS:
                raise DataError(first_few(problems))
        if not texts and not problems:
            problems.append(f"{path}: there is no text in it")
    if problems:
        raise DataError(first_few(problems))


def _items(path: Path) -> Iterator[Any]:
    return list_items(path, "a list of images with their sentences")


def _problems(datum: Any) -> Iterator[str]:
    if not isinstance(datum, Mapping) or not isinstance(datum.get("img_id"), str) or not datum["img_id"]:
        yield ": expected an object with img_id, sentf and labelf"
        return
    where = f" ('{datum['img_id']}')"
    sentences, labels = datum.get("sentf"), datum.get("labelf", {})
    if not isinstance(sentences, Mapping) or not isinstance(labels, Mapping):
        yield f"{where}: sentf and labelf have to be objects from names of sets to lists"
        return
    for name, texts in sentences.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            yield f"{where}: sentf.{name}: expected a list of texts"
        elif name in labels and (not isinstance(labels[name], list) or len(labels[name]) != len(texts)):
            found = len(labels[name]) if isinstance(labels[name], list) else "no list"
            yield f"{where}: labelf.{name}: expected {len(texts)} labels, as many as sentences, found {found}"
        elif name in labels and (odd := [label for label in labels[name] if not _is_label(label)]):
            yield f"{where}: labelf.{name}: expected answers with scores of 0 or more, found {str(odd[0])[:50]}"
    if others := sorted(set(labels) - set(sentences)):
        yield f"{where}: labelf has {', '.join(others)}, and sentf has not"


def _is_label(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(score, int | float) and not isinstance(score, bool) and score >= 0 for score in value.values()
    )


def _records(path: Path, known: AnswerVocabulary, unknown: Counter[str]) -> Iterator[dict[str, Any]]:
    for datum in _items(path):
        labels = datum.get("labelf", {})
        for name, texts in datum["sentf"].items():
            for number, text in enumerate(texts):
                record = {
                    "id": f"{datum['img_id']}_{name}_{number}",
                    "text": text,
                    "image": canonical_image_id(datum["img_id"]),
                    "source": name,
                }
                if name in labels:
                    record["answers"] = _spelled(labels[name][number], known, unknown)
                yield record


def _spelled(label: Mapping[str, float], known: AnswerVocabulary, unknown: Counter[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for answer, score in label.items():
        spelled = pretraining_spelling(answer)
        if spelled in known:
            found[spelled] = float(score)
        else:
            unknown[answer] += 1
    return found
