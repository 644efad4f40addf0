"""Builders and submission files: official files of the demo, or published ones, of which one is damaged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from published_files import PUBLISHED
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
    ("gqa", "official", "val_choices.json"),
    ("flickr30k", "karpathy", "dataset_flickr30k.json"),
    ("coco-captions", "official", "captions_train2014.json"),
    ("lxmert-pretraining", "lxmert", "mscoco_train.json"),
    ("lxmert-pretraining", "lxmert", "all_ans.json"),
    ("lxmert-pretraining", "lxmert", "objects_vocab.txt"),
    ("rosita-pretraining", "rosita", "annotations/pt-coco/pt_coco_annotations_train.tsv"),
    ("rosita-pretraining", "rosita", "annotations/pt-coco/pt_coco_annotations_train.lineidx"),
    ("rosita-pretraining", "rosita", "annotations/pt-coco/text_piror_coco_vg_cc_sbu.json"),
    ("rosita-pretraining", "rosita", "genome_vocabs/objects_vocab.txt"),
    ("rosita-pretraining", "word-vectors", "glove.txt"),
)
"""Dataset, source and file that is damaged, of those that the demo writes."""

Files = Mapping[str, bytes]
"""Path in the folder of the source -> content."""

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
def _official(dataset: str) -> Files:
    source = PLUGINS.demo_sources()[dataset]
    images = source.images_of(PLUGINS.demo_data()[source.provider].make_provider())
    by_split = groupby(sorted(images, key=lambda image: image.split), key=lambda image: image.split)
    some = [image for _, group in by_split for image in islice(group, _IMAGES.get(dataset, 1))]
    with tempfile.TemporaryDirectory() as name:
        source.write(Path(name), some)
        return _files_in(Path(name))


@lru_cache
def _built(dataset: str, left_out: str) -> Files:
    """The annotations, for builders that add to them from the file that is left out."""
    builder = _builder(dataset, PLUGINS.demo_sources()[dataset].builder)
    with tempfile.TemporaryDirectory() as name:
        _write({file: content for file, content in _official(dataset).items() if file != left_out}, Path(name, "given"))
        build_annotations(builder, Path(name, "given"), Path(name, "out"))
        return _files_in(Path(name, "out"))


def _files_in(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _write(files: Files, folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _builder(dataset: str, source: str) -> Builder:
    return next(builder for builder in PLUGINS.find("dataset", dataset).builders if builder.source == source)


def _build(dataset: str, source: str, files: Files, file: str, content: bytes, folder: Path) -> None:
    """Nothing may be written but below the output."""
    builder = _builder(dataset, source)
    given, out = folder / "given", folder / "out" / "annotations"
    if builder.reads_output:
        _write({file: content}, given)
        _write(_built(dataset, file), out)
    else:
        _write({**files, file: content}, given)
    try:
        build_annotations(builder, given / file if builder.reads_output else given, out)
    finally:
        assert {path.name for path in folder.iterdir()} <= {"given", "out"}
        assert {path.name for path in (folder / "out").iterdir()} <= {"annotations"}


def _submit(phase: str, content: bytes, folder: Path) -> None:
    """It may be what is handed in, or the official list of questions that it is compared with."""
    wanted = PLUGINS.submissions()[phase]
    annotations, submission, _ = SUBMITTED[phase]
    _write({f"{wanted.splits[0]}.jsonl": annotations.encode(), "right": submission, "damaged": content}, folder)
    by_any(
        [
            lambda: check_submission(folder / "damaged", wanted, folder),
            lambda: check_submission(folder / "right", wanted, None, folder / "damaged"),
        ]
    )


def builders(reader: Callable[..., Any]) -> Sequence[Any]:
    """A reader for each file that is built from."""

    def of_demo(dataset: str, source: str, file: str) -> Any:
        return reader(
            f"{dataset} from {file}",
            lambda folder: [_official(dataset)[file]],
            lambda content, folder: _build(dataset, source, _official(dataset), file, content, folder),
        )

    def published(dataset: str, source: str, files: Files, file: str) -> Any:
        return reader(
            f"{dataset} from {file}", lambda folder: [files[file]], partial(_build, dataset, source, files, file)
        )

    return [
        *(of_demo(*built) for built in BUILT),
        *(published(*source, files, file) for source, files in PUBLISHED.items() for file in files),
    ]


def submissions(reader: Callable[..., Any]) -> Sequence[Any]:
    """A reader for each kind of file that a server takes."""
    return [
        reader(f"submission: {phase}", lambda folder, files=files: [*files[1:]], partial(_submit, phase))
        for phase, files in SUBMITTED.items()
    ]
