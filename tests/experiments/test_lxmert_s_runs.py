"""LXMERT-S from its authors' files through its first optimiser steps, on each answering task: equal to the original.

The vectors hold the first batches of a run that was to have more steps. Here they lie in files of the authors' formats,
at the places that our order of the first epoch gives to its first steps; what follows is not compared.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vlrun import load_experiment, run_experiment
from vlrun.cli import main
from vlrun.data.loading import epoch_order
from vlrun.foreign.yaml import dump_yaml

pytestmark = pytest.mark.golden

SEED = 7
PIXELS = 1024  # a power of two: boxes in pixels come back as the very floats they were
CLS_ROW, ROWS = 101, 30522  # of the visual [CLS] table, as the authors' files have it

Vectors = Any


def num_steps(vectors: Vectors) -> int:
    """How many batches there are."""
    return len(vectors["train/loss"])


def golden_positions(vectors: Vectors) -> list[int]:
    """Where in the training file each example of these batches has to stand."""
    batch_size = len(vectors["in/step0/sent"])
    order = epoch_order(int(vectors["train/t_total"]) * batch_size, SEED, 0)
    return list(order[: num_steps(vectors) * batch_size])


def tiny_cls(golden: Path) -> int:
    """The id of [CLS] in the vocabulary of the vectors."""
    return (golden / "lxmert_s" / "tiny_vocab.txt").read_text().split().index("[CLS]")


def write_features(path: Path, images: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """LXMERT's TSV: image id -> features (R, D), boxes (R, 4) in 0..1."""

    def packed(array: Any, dtype: str) -> str:
        return base64.b64encode(np.ascontiguousarray(array, dtype)).decode()

    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        for name, (features, boxes) in images.items():
            n = len(features)
            classes, scores = packed(np.zeros(n), "int64"), packed(np.ones(n), "float32")
            row = [name, PIXELS, PIXELS, classes, scores, classes, scores, n]
            writer.writerow([*row, packed(boxes * PIXELS, "float32"), packed(features, "float32")])


def questions(vectors: Vectors, step: int, row: int, number: int) -> tuple[dict[str, Any], list[Any]]:
    target = vectors[f"in/step{step}/target"][row]
    label = {f"ans{index}": round(float(score), 6) for index, score in enumerate(target) if score}
    record = {"question_id": number, "img_id": f"COCO_train2014_{number:012d}", "label": label}
    sent = str(vectors[f"in/step{step}/sent"][row])
    regions = (vectors[f"in/step{step}/feats"][row], vectors[f"in/step{step}/boxes"][row])
    extra = {"question_type": "what", "answer_type": "other"}
    return {**record, "sent": sent, **extra}, [(record["img_id"], regions)]


def gqa_questions(vectors: Vectors, step: int, row: int, number: int) -> tuple[dict[str, Any], list[Any]]:
    record, images = questions(vectors, step, row, number)
    record = {"question_id": f"{number:07d}", "img_id": f"{number}", "sent": record["sent"], "label": record["label"]}
    return record, [(record["img_id"], images[0][1])]


def statements(vectors: Vectors, step: int, row: int, number: int) -> tuple[dict[str, Any], list[Any]]:
    stem = f"train-{number}-0"
    names = [f"{stem}-img0", f"{stem}-img1"]
    record = {
        "identifier": f"{stem}-0",
        "img0": names[0],
        "img1": names[1],
        "label": int(vectors[f"in/step{step}/label"][row]),
        "sent": str(vectors[f"in/step{step}/sent"][row]),
        "uid": f"nlvr2_train_{number}",
    }
    feats, boxes = vectors[f"in/step{step}/feats"][row], vectors[f"in/step{step}/boxes"][row]
    return record, [(name, (feats[side], boxes[side])) for side, name in enumerate(names)]


TASKS: dict[str, tuple[str, str, Callable[..., Any], str]] = {
    "vqa": ("vqav2", "minival", questions, "minival.json"),
    "gqa": ("gqa", "testdev", gqa_questions, "testdev.json"),
    "nlvr2": ("nlvr2", "dev", statements, "valid.json"),
}


def write_sources(task: str, vectors: Vectors, folder: Path) -> None:
    """The authors' annotation and feature files; the evaluation split repeats the batches of the vectors."""
    make = TASKS[task][2]
    steps, batch_size = int(vectors["train/t_total"]), len(vectors["in/step0/sent"])
    positions = golden_positions(vectors)
    records: list[Any] = [None] * (steps * batch_size)
    images: dict[str, Any] = {}
    for place in range(steps * batch_size):
        number = positions.index(place) if place in positions else place
        step, row = divmod(number if place in positions else 0, batch_size)
        records[place], found = make(vectors, step, row, place + 1)
        images.update(found)
    held_out = [make(vectors, *divmod(number, batch_size), 1000 + number) for number in range(len(positions))]
    images.update({name: regions for _, found in held_out for name, regions in found})
    (folder / "train.json").write_text(json.dumps(records))
    (folder / TASKS[task][3]).write_text(json.dumps([record for record, _ in held_out]))
    if task != "nlvr2":
        answers = [f"ans{index}" for index in range(vectors["in/step0/target"].shape[1])]
        (folder / "trainval_label2ans.json").write_text(json.dumps(answers))
    write_features(folder / "obj36.tsv", images)


def write_checkpoint(vectors: Vectors, cls_id: int, path: Path) -> None:
    """A snapshot of the authors' task model, its visual [CLS] table with all of its rows."""
    state = {
        name.removeprefix("state/"): torch.from_numpy(vectors[name])
        for name in vectors.files
        if name.startswith("state/")
    }
    key = "lxrt_encoder.model.bert.word_embeddings.weight"
    table = torch.zeros(ROWS, state[key].shape[1])
    table[CLS_ROW] = state[key][cls_id]
    torch.save({**state, key: table}, path)


def prepared(task: str, vectors: Vectors, golden: Path, root: Path) -> None:
    """The authors' files through our commands, as a user would do it."""
    sources = root / "sources"
    sources.mkdir()
    write_sources(task, vectors, sources)
    write_checkpoint(vectors, tiny_cls(golden), sources / "BEST.pth")
    answers = ["--answers", str(sources / "trainval_label2ans.json")] if task != "nlvr2" else []
    store, weights = str(root / "features"), str(root / "weights.safetensors")
    commands = [
        ["data", "build", TASKS[task][0], "--from", "lxmert", str(sources), str(root / "annotations")],
        ["features", "build", "--from", "lxmert-tsv", "--dtype", "float32", str(sources / "obj36.tsv"), store],
        ["weights", "import", "--from", "lxmert-s", str(sources / "BEST.pth"), weights, *answers],
    ]
    assert [main(command) for command in commands] == [0, 0, 0]
    (root / "vocab.txt").write_bytes((golden / "lxmert_s" / "tiny_vocab.txt").read_bytes())


def experiment_text(task: str, vectors: Vectors) -> str:
    dataset, split, _, _ = TASKS[task]
    sizes = {name.removeprefix("config/"): vectors[name].item() for name in vectors.files if name.startswith("config/")}
    options = {"loss": {"vqa": "bce", "gqa": "cross-entropy"}[task]} if task != "nlvr2" else {}
    return dump_yaml(
        {
            "seed": SEED,
            "backbone": {
                "name": "lxmert-s",
                "weights": "weights.safetensors",
                "vocabulary": "vocab.txt",
                "hidden_size": sizes["hidden_size"],
                "num_heads": sizes["num_attention_heads"],
                "feed_forward_size": sizes["intermediate_size"],
                "num_language_layers": sizes["l_layers"],
                "num_cross_layers": sizes["x_layers"],
                "num_object_layers": sizes["r_layers"],
                "max_positions": sizes["max_position_embeddings"],
                "region_feature_size": sizes["visual_feat_dim"],
                "num_regions": vectors["in/step0/feats"].shape[-2],
                "dropout": 0.0,
            },
            "tasks": [
                {
                    "name": task,
                    "max_text_tokens": vectors["in/step0/input_ids"].shape[1],
                    **options,
                    "dataset": {
                        "name": dataset,
                        "annotations": "annotations",
                        "features": "features",
                        "evaluate": [split],
                    },
                }
            ],
            "train": {
                "epochs": 1,
                "batch_size": len(vectors["in/step0/sent"]),
                "learning_rate": float(vectors["train/lr_peak"]),
                "max_grad_norm": float(vectors["train/clip_max_norm"]),
                "optimizer": {"name": "bert-adam", "weight_decay": 0.01},
                "schedule": {"name": "warmup-linear", "warmup_epochs": float(vectors["train/warmup"])},
                "checkpoint_every": num_steps(vectors),
                "keep_checkpoints": 100,
                "log_every": 1,
                "workers": 0,
            },
            "reporters": [{"name": "jsonl"}],
            "built_in_reporters": False,
        }
    )


def our_name(theirs: str) -> str:
    layers = {"0": "dense0", "2": "layer_norm", "3": "dense1"}
    if theirs.startswith("logit_fc."):
        _, layer, kind = theirs.split(".")
        return f"{layers[layer]}.{kind}"
    return f"backbone.{theirs.rpartition('bert.')[2]}"


def compared_parameters(task: str, vectors: Vectors, cls_id: int, ours: dict[str, torch.Tensor]) -> Sequence[str]:
    """Asserts that our parameters are the original's after its steps; returns the names that were compared."""
    compared = []
    for name in (key.removeprefix("after3/") for key in vectors.files if key.startswith("after3/")):
        wanted = vectors[f"after3/{name}"]
        key = our_name(name)
        key = key if key.startswith("backbone.") else f"heads.{task}.{key}"
        if key == "backbone.word_embeddings.weight":
            wanted = wanted[cls_id : cls_id + 1]
        tolerance = 2e-3 if key.endswith("key.bias") else 1e-4  # a key's bias has no gradient but rounding noise
        np.testing.assert_allclose(ours[key].numpy(), wanted, atol=tolerance, err_msg=key)
        compared.append(key)
    return compared


@pytest.mark.parametrize("task", TASKS)
def test_training_from_the_authors_files_equals_the_original(task: str, golden: Path, tmp_path: Path) -> None:
    vectors = np.load(golden / "lxmert_s" / f"{task}.npz")
    prepared(task, vectors, golden, tmp_path)
    (tmp_path / "mini.yaml").write_text(experiment_text(task, vectors))
    result = run_experiment(load_experiment(tmp_path / "mini.yaml", [f"data_root={tmp_path}", f"runs_root={tmp_path}"]))

    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    assert len(steps) == vectors["train/t_total"]
    steps = steps[: num_steps(vectors)]
    np.testing.assert_allclose([step["learning_rate"] for step in steps], vectors["train/lr_used"], rtol=1e-12)
    np.testing.assert_allclose([step["loss"] for step in steps], vectors["train/loss"], rtol=1e-5)
    norms = [step["gradient_norm"] for step in steps]
    np.testing.assert_allclose(norms, vectors["train/grad_norm_before_clip"], rtol=1e-4)

    checkpoint = result.folder / "checkpoints" / f"step_{num_steps(vectors):08d}"
    ours = load_file(checkpoint / "model.safetensors")
    matching_head = {f"backbone.seq_relationship.{kind}" for kind in ("weight", "bias")}  # the original has none here
    assert set(compared_parameters(task, vectors, tiny_cls(golden), ours)) == set(ours) - matching_head


@pytest.mark.parametrize("task", TASKS)
def test_evaluating_the_authors_weights_equals_the_original(task: str, golden: Path, tmp_path: Path) -> None:
    vectors = np.load(golden / "lxmert_s" / f"{task}.npz")
    prepared(task, vectors, golden, tmp_path)
    (tmp_path / "mini.yaml").write_text(experiment_text(task, vectors))
    roots = [f"data_root={tmp_path}", f"runs_root={tmp_path}", "train.epochs=0"]
    result = run_experiment(load_experiment(tmp_path / "mini.yaml", roots))

    split = TASKS[task][1]
    lines = (result.folder / "predictions" / f"{task}_{split}.jsonl").read_text().splitlines()
    field = "label" if task == "nlvr2" else "answer"
    assert [json.loads(line)[field] for line in lines] == [
        bool(answer) if task == "nlvr2" else str(answer) for answer in vectors["out/predict_init"]
    ]
    accuracy = next(row.score for row in result.rows if row.score.primary)
    assert accuracy.value == pytest.approx(100 * vectors["out/predict_init_score"].item(), abs=1e-4)
