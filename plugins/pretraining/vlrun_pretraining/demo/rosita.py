"""Demo data as the files of ROSITA's pre-training: captions with lemmas, scene graphs, and what is often said."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlrun import DemoImage
from vlrun.seeds import derive_seed
from vlrun_demo.language import COLOURS, KINDS, sentences
from vlrun_pretraining.demo.grammar import Parsed, lemmas_of_things, parsed

_SETS = {"pt-vg": 0, "pt-conceptual": 5, "pt-sbu": 10}
"""Set -> the place, modulo 15, of the images that go to it; others to pt-coco. All are images of COCO here."""

_HELD_OUT_EVERY = 25
"""Of so many images of pt-coco the importer takes the last to measure on."""

_WIDTH = 50  # of a word vector
_LIKE_ITS_KIND = 0.8  # cosine of the vectors of two words for the same thing, on average


def write_rosita_pretraining(folder: Path, chosen: Sequence[DemoImage]) -> None:
    """Writes ``annotations``, ``genome_vocabs`` and a text file of word vectors into ``folder``."""
    rows: dict[str, list[tuple[DemoImage, str, Parsed]]] = {}
    for name, images in _by_set(chosen).items():
        rows[name] = [(image, text, parsed(text)) for image in images for text in sentences(image)]
    for name, of_set in rows.items():
        path = folder / "annotations" / name / f"{name.replace('-', '_')}_annotations_train.tsv"
        path.parent.mkdir(parents=True)
        lines = [_row(number, *row).encode() for number, row in enumerate(of_set)]
        starts = np.cumsum([0, *map(len, lines)])[:-1]
        path.write_bytes(b"".join(lines))
        path.with_suffix(".lineidx").write_text("".join(f"{start}\n" for start in starts), encoding="ascii")
    priors = _priors(graph for of_set in rows.values() for _, _, graph in of_set)
    _write(folder / "annotations/pt-coco/text_piror_coco_vg_cc_sbu.json", json.dumps(priors))
    _write(folder / "genome_vocabs/objects_vocab.txt", "".join(f"{kind}\n" for kind in KINDS))
    _write(folder / "genome_vocabs/attributes_vocab.txt", "".join(f"{colour}\n" for colour in COLOURS))
    _write(folder / "glove.txt", "".join(_vectors()))


def _by_set(chosen: Sequence[DemoImage]) -> dict[str, list[DemoImage]]:
    """Images of train go to all sets; one of val comes after every 24 in pt-coco, from where the importer takes it."""
    images: dict[str, list[DemoImage]] = {name: [] for name in ("pt-coco", *_SETS)}
    val = iter([image for image in chosen if image.split == "val"])
    for place, image in enumerate(image for image in chosen if image.split != "val"):
        name = next((name for name, own in _SETS.items() if place % 15 == own), "pt-coco")
        images[name].append(image)
        if name == "pt-coco" and len(images[name]) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1:
            images[name] += [next(val)]
    return images


def _row(number: int, image: DemoImage, text: str, graph: Parsed) -> str:
    found = {
        "objs": [[words] for words in graph.objects],
        "attrs": graph.attributes,
        "rels": graph.relations,
        "mixed": [],
    }
    texts = [json.dumps(text), json.dumps(" ".join(graph.lemmas))]
    names = ["coco", str(image.number), f"{image.id}.jpg", "train"]
    return "\t".join(["cap", "coco", "train", f"coco_{number}", *texts, *names, '""', "[]", json.dumps(found)]) + "\n"


def _priors(graphs: Iterable[Parsed]) -> dict[str, dict[str, dict[str, float]]]:
    """How often a phrase goes with an object, of all the times that the object is named."""
    named: Counter[str] = Counter()
    counts: dict[str, dict[str, Counter[str]]] = {"attr_count": defaultdict(Counter), "rel_count": defaultdict(Counter)}
    for graph in graphs:

        def phrase(*parts: Sequence[int], lemmas: Sequence[str] = graph.lemmas) -> str:
            return " ".join(lemmas[word] for part in parts for word in part)

        named.update(phrase(words) for words in graph.objects)
        for of_object, words in graph.attributes:
            counts["attr_count"][phrase(of_object)][phrase(words)] += 1
        for subject, words, of_object in graph.relations:
            counts["rel_count"][phrase(subject)][phrase(words, of_object)] += 1
            counts["rel_count"][phrase(of_object)][phrase(subject, words)] += 1
    return {
        name: {lemma: {said: times / named[lemma] for said, times in found.items()} for lemma, found in table.items()}
        for name, table in counts.items()
    }


def _vectors() -> Iterable[str]:
    """A line for each noun: words for the same thing are near each other, as in vectors learned from texts."""
    for noun, kind in lemmas_of_things():
        own, of_kind = (_direction(name) for name in (noun, kind))
        vector = of_kind if noun == kind else _LIKE_ITS_KIND**0.5 * of_kind + (1 - _LIKE_ITS_KIND) ** 0.5 * own
        yield f"{noun} {' '.join(f'{number:.5f}' for number in vector)}\n"


def _direction(word: str) -> Any:
    rng = np.random.Generator(np.random.Philox(derive_seed("demo", "word vector", word)))
    return rng.normal(0.0, _WIDTH**-0.5, _WIDTH)


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
