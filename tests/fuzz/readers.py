"""Every reader of foreign files, as a function of bytes; and files that are right, to begin with."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import feature_files as features
import foreign
import official_files
import torch
from refusals import by_all, by_any
from safetensors.torch import save

from vlrun.blocks.answers import read_answers
from vlrun.blocks.wordpiece import SPECIAL_TOKENS, WordPiece
from vlrun.config.experiment import load_experiment
from vlrun.config.preflight import weights_header
from vlrun.data.annotations import AnnotationFile, load_plain_pickle, validate_annotations
from vlrun.data.archives import unpack
from vlrun.data.identities import read_identities, write_identities
from vlrun.data.json_stream import items_by_key, items_of, list_items, object_items, value_under
from vlrun.engine.checkpoints import open_checkpoint
from vlrun.engine.weight_files import read_foreign, read_imported, write_imported
from vlrun.engine.weight_sources import find_source
from vlrun.errors import ConfigError, DataError
from vlrun.features.formats.sizes import read_sizes
from vlrun.files import read_json, sha256_of
from vlrun.foreign.yaml import parse_value, parse_yaml
from vlrun.plugins.manager import create_plugins
from vlrun.reporting.run_record import read_header, read_run
from vlrun.runs.again import read_predictions

PLUGINS = create_plugins()


@dataclass(frozen=True)
class Reader:
    """What is fuzzed.

    Attributes:
        seeds: makes files that are right.
        read: reads ``content``, which it may put into a folder of its own; raises the project's errors alone.
    """

    name: str
    seeds: Callable[[Path], Sequence[bytes]]
    read: Callable[[bytes, Path], object]


def as_file(name: str, read: Callable[[Path], object]) -> Any:
    def write_and_read(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        read(folder / name)

    return write_and_read


def lines(*values: Any) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


# --- annotations ---

RECORDS = {
    "vqav2": {
        "id": "458752000", "text": "What?", "image": "COCO_train2014_000000458752", "answers": ["net"] * 10,
        "answer_type": "other", "annotators": list(range(10)),
    },
    "gqa": {
        "id": "07333408", "text": "Is it red?", "image": "2370799", "answer": "no", "is_balanced": True, "steps": 2,
        "entailed": ["07333409"], "valid": ["yes", "no"],
    },
    "nlvr2": {
        "id": "dev-850-0-1", "text": "Two owls.", "images": ["dev-850-0-img0", "dev-850-0-img1"], "label": False,
        "group": "dev-850--1", "subsets": ["balanced"],
    },
    "refcoco+": {
        "id": "20", "text": "guy", "image": "COCO_train2014_000000000321", "width": 640, "height": 480,
        "box": [10.5, 20.0, 100.0, 200.25], "ref_id": 9, "ann_id": 55, "category": "person",
    },
    "flickr30k": {"id": "1007129816#0", "text": "The man.", "image": "1007129816", "position": 0},
    "lxmert-pretraining": {
        "id": "a_vqa_0", "text": "Is it?", "image": "COCO_val2014_000000318556", "source": "vqa",
        "answers": {"yes": 1.0},
    },
}  # fmt: skip


def annotations(name: str) -> Reader:
    model = PLUGINS.find("dataset", name).load_record()

    def read(path: Path) -> None:
        problems = validate_annotations(path, model)
        file = AnnotationFile(path)
        by_all([*(partial(file.read, index, model) for index in range(len(file))), lambda: list(file.image_ids())])
        if problems:
            raise DataError(problems)

    return Reader(
        f"annotations of {name}",
        lambda folder: [lines(RECORDS[name], {**RECORDS[name], "id": "3"})],
        as_file("val.jsonl", read),
    )


# --- JSON, YAML, texts ---

ROWS = {
    "rows": [{"a": [1, 2.5, "x", None, {"b": True}]}, {"a": []}],
    "kind": "x",
    "images": [{"id": 3, "file_name": "a.jpg"}],
}


def read_streams(path: Path) -> None:
    by_any(
        [
            lambda: list(object_items(path, "an object")),
            lambda: list(list_items(path, "a list")),
            lambda: list(items_of(path, "rows", "rows")),
            lambda: list(items_by_key(path, "lists")),
            lambda: value_under(path, "kind", "kind"),
        ]
    )


EXPERIMENT = b"""backbone: {name: rosita, weights: weights/a.safetensors, dropout: 0.1}
tasks:
  - &task
    {name: vqa, max_text_tokens: 14,
     dataset: {name: vqav2, annotations: a, features: f, train: [train], evaluate: [val]}}
  - {<<: *task, label: second, loss_weight: 2}
train: {epochs: 3, batch_size: 64, learning_rate: 5.0e-5, schedule: {name: warmup-staircase, decay_epochs: [2]}}
"""


def read_experiment(path: Path) -> None:
    try:
        load_experiment(path, plugins=PLUGINS).as_yaml_with_origins()
    except ConfigError as error:
        assert len(str(error)) < 100_000
        raise


TASK = b"tasks.1={name: vqa, label: b, dataset: {name: vqav2, annotations: &a data, features: *a, evaluate: [val]}}"


def read_override(content: bytes, folder: Path) -> None:
    text = content.decode(errors="replace")
    parse_value(text)
    parse_yaml(text)
    path = folder / "a.yaml"
    path.write_bytes(EXPERIMENT)
    load_experiment(path, [text if "=" in text else f"train.epochs={text}"], plugins=PLUGINS)


VOCABULARY = "\n".join([*SPECIAL_TOKENS, "a", "##b", "c"]).encode()
TOKENIZER = json.dumps(
    {
        "model": {"type": "WordPiece", "vocab": {token: n for n, token in enumerate([*SPECIAL_TOKENS, "a", "##b"])}},
        "normalizer": {"type": "BertNormalizer", "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "added_tokens": [],
    }
).encode()


def write_table(folder: Path) -> list[bytes]:
    write_identities(folder / "t.jsonl", [["COCO_val2014_000000000042", "visual-genome:7"]], [{"file": "a"}])
    return [(folder / "t.jsonl").read_bytes()]


# --- run folders ---

STATUS = {"status": "done", "message": "", "demo": False, "step": 3, "total_steps": 3, "started": "a", "finished": "b",
          "experiment": "x"}  # fmt: skip
RESULT = {"kind": "result", "task": "vqa", "split": "val", "name": "accuracy", "value": 61.5, "unit": "%", "count": 10,
          "step": 3, "epoch": 1, "final": True, "primary": True, "standard_error": 0.4,
          "protocol": {"a": [1]}}  # fmt: skip
RUN_FILES = {
    "status.json": json.dumps(STATUS).encode(),
    "metrics.jsonl": lines({"kind": "step", "step": 1, "task": "vqa", "loss": 1.5, "losses": {"a": 1.5}}, RESULT),
    "config.yaml": EXPERIMENT,
    "header.json": json.dumps({"facts": [["data", "x"]]}).encode(),
    "data.json": json.dumps({"vqa": {"marks": {}, "features": {"extractor": "x"}}}).encode(),
}


def run_folder(name: str) -> Reader:
    def read(content: bytes, folder: Path) -> None:
        for file, whole in RUN_FILES.items():
            (folder / file).write_bytes(content if file == name else whole)
        read_run(folder)
        read_header(folder)

    return Reader(f"run folder: {name}", lambda folder: [RUN_FILES[name]], read)


def checkpoint(name: str) -> Reader:
    """A checkpoint in which somebody has replaced a file and its hash."""

    def seeds(folder: Path) -> list[bytes]:
        return [parts()[name]]

    def parts() -> dict[str, bytes]:
        tensors = save({"a.weight": torch.ones(2, 3)})
        return {
            "model.safetensors": tensors,
            "optimizer.safetensors": save({"a.weight/exp_avg": torch.ones(2, 3), "a.weight/step": torch.tensor(3.0)}),
            "progress.json": json.dumps({"step": 3, "identity": {"vocabulary": "x"}, "scaler": {}}).encode(),
            "heads.json": json.dumps({"vqa": {"answers": ["a"]}}).encode(),
            "named_heads.json": json.dumps([{"name": "answer", "module": "heads.vqa", "meaning": {}}]).encode(),
        }

    def read(content: bytes, folder: Path) -> None:
        for file, whole in {**parts(), name: content}.items():
            (folder / file).write_bytes(whole)
        hashes = {file: sha256_of(folder / file) for file in parts()}
        (folder / "manifest.json").write_text(json.dumps(hashes))
        if name == "manifest.json":
            (folder / "manifest.json").write_bytes(content)
        opened = open_checkpoint(folder)
        opened.head_meanings()
        opened.named_heads()
        model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2, bias=False)})
        opened.load_model(model)
        opened.load_optimizer(torch.optim.Adam(model.parameters()), model)

    return Reader(f"checkpoint: {name}", seeds, read)


# --- weights ---


def write_weights(folder: Path) -> list[bytes]:
    tensors = {"embeddings.word.weight": torch.ones(3, 4), "layer.bias": torch.zeros(4, dtype=torch.float16)}
    write_imported(folder / "w.safetensors", tensors, {"backbone": "rosita", "heads": {}, "features": {}}, ())
    return [(folder / "w.safetensors").read_bytes(), save(tensors)]


def read_weights(path: Path) -> None:
    weights_header(path)
    read_imported(path)


def write_torch(folder: Path) -> list[bytes]:
    content = {"model": {"a": torch.ones(3, 4), "b": torch.arange(3)}, "epoch": 3}
    written = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        written.append(file.getvalue())
    return written


def read_index(path: Path) -> None:
    (path.parent / "a.safetensors").write_bytes(save({"a": torch.ones(2)}))
    find_source(path)


# --- archives ---


def write_archives(folder: Path) -> list[bytes]:
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/a.json", b"[1, 2, 3]" * 20)
        archive.writestr("b.txt", b"x")
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        info = tarfile.TarInfo("folder/a.json")
        info.size = 9
        archive.addfile(info, io.BytesIO(b"[1, 2, 3]"))
    return [zipped.getvalue(), tarred.getvalue()]


def read_archive(content: bytes, folder: Path) -> None:
    path = folder / ("a.zip" if content[:2] == b"PK" else "a.tar.gz")
    path.write_bytes(content)
    inside = folder / "inside" / "deep" / "unpacked"
    try:
        unpack(path, inside)
    finally:
        others = [
            file for file in folder.rglob("*") if file.is_file() and not file.is_relative_to(inside) and file != path
        ]
        assert not others, others


READERS = (
    *map(annotations, RECORDS),
    *map(run_folder, RUN_FILES),
    *map(checkpoint, ("model.safetensors", "optimizer.safetensors", "progress.json", "heads.json", "named_heads.json")),
    Reader("JSON", lambda folder: [json.dumps(ROWS).encode(), b"[1, 2.5e3, {}]"], as_file("a.json", read_json)),
    Reader(
        "JSON, item by item",
        lambda folder: [json.dumps(ROWS).encode(), b"[1, {}]"],
        as_file("a.json", read_streams),
    ),
    Reader("YAML of an experiment", lambda folder: [EXPERIMENT], as_file("a.yaml", read_experiment)),
    Reader(
        "overrides",
        lambda folder: [b"3", b"tasks.0.dataset.evaluate=[&a val, minival]", b"train.schedule={name: constant}", TASK],
        read_override,
    ),
    Reader("vocabulary", lambda folder: [VOCABULARY], as_file("vocab.txt", WordPiece)),
    Reader("tokenizer.json", lambda folder: [TOKENIZER], as_file("tokenizer.json", WordPiece)),
    Reader("answers", lambda folder: [b'["yes", "no"]', b'{"yes": 0, "no": 1}'], as_file("a.json", read_answers)),
    Reader("image identities", write_table, as_file("t.jsonl", read_identities)),
    Reader("predictions", lambda folder: [lines({"id": "1", "answer": "yes"})], as_file("p.jsonl", read_predictions)),
    Reader(
        "plain pickles",
        lambda folder: [pickle.dumps([{"ref_id": 1, "box": (1.5, 2), "s": "ü"}], p) for p in range(6)],
        as_file("refs.p", load_plain_pickle),
    ),
    Reader("pickled features", features.pickled_seeds, features.read_pickled),
    Reader("UNITER's values", features.uniter_seeds, features.read_uniter),
    Reader("npz", features.npz_seeds, features.of_format("npz", "npz/COCO_val2014_000000000042.npz")),
    Reader("HDF5 of VOLTA", features.volta_seeds, features.Apart(features.of_format("volta-hdf5", "a.h5"))),
    Reader(
        "HDF5 of GQA",
        features.gqa_seeds,
        features.Apart(features.of_format("gqa-hdf5", "gqa_objects_0.h5", features.gqa_info_beside)),
    ),
    Reader("info of MMF", features.mmf_info, features.read_mmf),
    Reader("TSV of 10 columns", lambda folder: features.tsv_rows(10), features.of_format("lxmert-tsv", "a.tsv")),
    Reader("TSV of 6 columns", lambda folder: features.tsv_rows(6), features.of_format("butd-tsv", "a.tsv")),
    Reader(
        "TSV of VinVL", features.vinvl_seeds, features.of_format("vinvl-tsv", "features.tsv", features.sizes_beside)
    ),
    Reader(
        "sizes of VinVL",
        lambda folder: [foreign.vinvl_sizes(features.regions()).encode()],
        as_file("hw.tsv", lambda path: read_sizes([path])),
    ),
    Reader("safetensors", write_weights, as_file("w.safetensors", read_weights)),
    Reader("torch.save", write_torch, as_file("w.bin", read_foreign)),
    Reader(
        "index of weights",
        lambda folder: [json.dumps({"weight_map": {"a": "a.safetensors"}}).encode()],
        as_file("model.safetensors.index.json", read_index),
    ),
    Reader("archives", write_archives, read_archive),
    Reader("records of stores", features.store_seeds, features.read_stored),
    *official_files.builders(Reader),
    *official_files.submissions(Reader),
)
