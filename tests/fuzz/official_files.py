"""Builders and submission files: the demo's official files about a few images, of which one is damaged."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from refusals import by_any

from vlrun.data.building import build_annotations
from vlrun.data.submissions import check_submission
from vlrun.plugins.entries import Builder
from vlrun.plugins.manager import create_plugins

PLUGINS = create_plugins()
BUILT = (
    ("refcoco+", "official", "refs(unc).p"),
    ("refcoco+", "official", "instances.json"),
    ("vqav2", "official", "v2_OpenEnded_mscoco_train2014_questions.json"),
    ("vqav2", "official", "v2_mscoco_train2014_annotations.json"),
    ("gqa", "official", "val_balanced_questions.json"),
    ("gqa", "official", "submission_all_questions.json"),
    ("flickr30k", "karpathy", "dataset_flickr30k.json"),
    ("coco-captions", "official", "captions_train2014.json"),
    ("lxmert-pretraining", "lxmert", "mscoco_train.json"),
    ("lxmert-pretraining", "lxmert", "all_ans.json"),
    ("rosita-pretraining", "rosita", "annotations/pt-coco/pt_coco_annotations_train.tsv"),
    ("rosita-pretraining", "rosita", "annotations/pt-coco/pt_coco_annotations_train.lineidx"),
    ("rosita-pretraining", "rosita", "annotations/pt-coco/text_piror_coco_vg_cc_sbu.json"),
    ("rosita-pretraining", "word-vectors", "glove.txt"),
)
"""Dataset, source and file that is damaged."""

_IMAGES = {"lxmert-pretraining": 8, "rosita-pretraining": 30}
"""Of each split, so many that no file is empty; one of other datasets."""

SUBMITTED = {
    "vqav2-test-dev": (
        '{"id": "1", "text": "What?", "image": "COCO_test2015_000000000001"}\n',
        b'[{"question_id": 1, "answer": "yes"}]',
        b'{"questions": [{"question_id": 1, "image_id": 1, "question": "What?"}]}',
    ),
    "gqa-testdev": (
        '{"id": "1", "text": "What?", "image": "n1"}\n',
        b'[{"questionId": "1", "prediction": "yes"}]',
        b'{"1": {"question": "What?", "imageId": "n1"}}',
    ),
    "nlvr2-test1": (
        '{"id": "1", "text": "Two.", "images": ["a", "b"]}\n',
        b"test1-0-1-0,True\ntest1-0-1-1,false\n",
        b'{"identifier": "test1-0-1-0", "sentence": "Two."}\n',
    ),
}
"""Phase -> annotations, a file for the server, and an official list of questions."""


@lru_cache
def _official(dataset: str) -> Path:
    source = PLUGINS.demo_sources()[dataset]
    images = PLUGINS.demo_data()[source.provider].make_provider().images(source.image_set)
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    by_split = groupby(sorted(images, key=lambda image: image.split), key=lambda image: image.split)
    source.write(folder, [image for _, group in by_split for image in islice(group, _IMAGES.get(dataset, 1))])
    return folder


def _builder(dataset: str, source: str) -> Builder:
    return next(builder for builder in PLUGINS.find("dataset", dataset).builders if builder.source == source)


def _seeds(dataset: str, file: str, folder: Path) -> list[bytes]:
    return [(_official(dataset) / file).read_bytes()]


def _build(dataset: str, source: str, file: str, content: bytes, folder: Path) -> None:
    """Nothing may be written but below the output."""
    builder, out = _builder(dataset, source), folder / "out" / "annotations"
    official = shutil.copytree(_official(dataset), folder / "official")
    (official / file).write_bytes(content)
    if builder.reads_output:
        build_annotations(_builder(dataset, PLUGINS.demo_sources()[dataset].builder), official, out)
    try:
        build_annotations(builder, official / file if source == "word-vectors" else official, out)
    finally:
        assert {path.name for path in folder.iterdir()} <= {"official", "out"}
        assert {path.name for path in (folder / "out").iterdir()} <= {"annotations"}


def _submit(phase: str, content: bytes, folder: Path) -> None:
    """It may be what is handed in, or the official list of questions that it is compared with."""
    wanted = PLUGINS.submissions()[phase]
    annotations, submission, _ = SUBMITTED[phase]
    (folder / f"{wanted.splits[0]}.jsonl").write_text(annotations)
    (folder / "right").write_bytes(submission)
    (folder / "damaged").write_bytes(content)
    by_any(
        [
            lambda: check_submission(folder / "damaged", wanted, folder),
            lambda: check_submission(folder / "right", wanted, None, folder / "damaged"),
        ]
    )


def builders(reader: Callable[..., Any]) -> Sequence[Any]:
    """A reader for each file that is built from."""
    return [
        reader(f"{dataset} from {file}", partial(_seeds, dataset, file), partial(_build, dataset, source, file))
        for dataset, source, file in BUILT
    ]


def submissions(reader: Callable[..., Any]) -> Sequence[Any]:
    """A reader for each kind of file that a server takes."""
    return [
        reader(f"submission: {phase}", lambda folder, files=files: [*files[1:]], partial(_submit, phase))
        for phase, files in SUBMITTED.items()
    ]
