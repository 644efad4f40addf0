"""Whole training runs on the original's own files equal the original: losses, rates, parameters, predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vlrun import load_experiment, run_experiment
from vlrun.cli import main
from vlrun.foreign.yaml import dump_yaml
from vlrun.runs.run import RunResult

pytestmark = pytest.mark.golden

TRUNK = ("text_embeddings", "visual_embeddings", "backbone", "pooler")


@dataclass(frozen=True)
class Tolerances:
    """Loss and norm are relative, boxes in pixels; a parameter is off by so much at most.

    Of the run from a store of float16, the parameters all together are off by that share of the way that they went:
    Adam takes a full step whichever sign the smallest gradients have.
    """

    loss: float
    norm: float
    parameter: float
    box: float
    includes_noise: bool = False


TOLERANCES = {
    "float32": Tolerances(loss=1e-5, norm=1e-3, parameter=1e-4, box=1e-2),
    "float64": Tolerances(loss=5e-8, norm=5e-6, parameter=1e-6, box=1e-6, includes_noise=True),
    "float16 store": Tolerances(loss=1e-3, norm=1e-2, parameter=2e-2, box=0.2),
}


@dataclass(frozen=True)
class Task:
    """A task of the original: our dataset, the folder and file of its annotations, its head, our task's options."""

    name: str
    dataset: str
    annotations: str
    head: str
    train: list[str]
    evaluate: list[str]
    options: dict[str, Any]


REC = Task(
    "rec",
    "refcoco",
    "rec-refcoco/rec_refcoco_annotations.json",
    "mm_refs_head",
    ["train"],
    ["val"],
    {"score_padded_regions": True},
)
VQA = Task(
    "vqa",
    "vqav2",
    "vqa-vqav2/vqa_vqav2_annotations.json",
    "mm_qa_head",
    ["train", "val"],
    ["minival"],
    {
        "loss": "kl-then-bce",
        "scale_by_answers": False,
        "normalise_answers": True,
        "answers": "answer_vocab.json",
        "transfer_head": True,
        "metrics": [{"name": "vqa-accuracy", "evaluator": "pre-2021"}],
    },
)


@dataclass(frozen=True)
class Original:
    """What the original did on ``golden/rosita/mini``."""

    task: Task
    network: Any
    run: Any
    notes: dict[str, Any]

    def of_run(self, name: str) -> Any:
        return self.run[f"{self.task.name}/{name}"]


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    torch.set_default_dtype(getattr(torch, request.param))
    yield request.param
    torch.set_default_dtype(torch.float32)


def original(golden: Path, task: Task) -> Original:
    folder = golden / "rosita"
    notes = json.loads((folder / "e2e.json").read_text())[task.name]
    return Original(task, np.load(folder / f"{task.name}.npz"), np.load(folder / "e2e.npz"), notes)


def write_checkpoint(network: Any, path: Path) -> None:
    """The network's parameters as the authors' files hold them."""
    layout: dict[str, Any] = {"epoch": 1}
    for key in (name.removeprefix("state/") for name in network.files if name.startswith("state/")):
        module, _, name = key.partition(".")
        layout.setdefault(module, {})[name] = torch.from_numpy(network[f"state/{key}"])
    torch.save(layout, path)


def prepared(golden: Path, of: Original, root: Path, store_dtype: str) -> Path:
    """The original's files through our commands, as a user would do it."""
    mini = golden / "rosita" / "mini"
    write_checkpoint(of.network, root / "rosita.pkl")
    vocabulary = mini / "answer_vocab.json"
    answers = ["--answers", str(vocabulary)] if of.task is VQA else []
    annotations, features = mini / "annotations" / of.task.annotations, mini / "imgfeats" / "mscoco_bua_r101_fix36"
    weights = str(root / "weights.safetensors")
    commands = [
        ["data", "build", of.task.dataset, "--from", "rosita", str(annotations), str(root / "annotations")],
        ["features", "build", "--from", "rosita-tsv", "--dtype", store_dtype, str(features), str(root / "features")],
        ["weights", "import", "--from", "rosita", str(root / "rosita.pkl"), weights, *answers],
    ]
    assert [main(command) for command in commands] == [0, 0, 0]
    (root / "vocab.txt").write_bytes((mini / "vocab.txt").read_bytes())
    if of.task is VQA:
        (root / "answer_vocab.json").write_bytes(vocabulary.read_bytes())
    return root


def experiment_text(of: Original) -> str:
    sizes = {
        key: of.network[f"cfg/{key}"].item()
        for key in ("hsize", "layers", "heads", "hff", "imgfeat", "regions", "text_len", "pos")
    }
    options = {key: of.network[f"opt/{key}"].item() for key in ("beta1", "beta2", "eps", "weight_decay")}
    settings = of.notes["settings"]
    switch = {"switch_epoch": settings["switch_to_bce_at_epoch"]} if of.task is VQA else {}
    return dump_yaml(
        {
            "backbone": {
                "name": "rosita",
                "weights": "weights.safetensors",
                "vocabulary": "vocab.txt",
                "hidden_size": sizes["hsize"],
                "num_layers": sizes["layers"],
                "num_heads": sizes["heads"],
                "feed_forward_size": sizes["hff"],
                "max_positions": sizes["pos"],
                "region_feature_size": sizes["imgfeat"],
                "num_regions": sizes["regions"],
                "dropout": 0.0,
            },
            "tasks": [
                {
                    "name": of.task.name,
                    "max_text_tokens": sizes["text_len"],
                    **of.task.options,
                    **switch,
                    "dataset": {
                        "name": of.task.dataset,
                        "annotations": "annotations",
                        "features": "features",
                        "train": of.task.train,
                        "evaluate": of.task.evaluate,
                    },
                }
            ],
            "train": {
                "epochs": of.notes["epochs"],
                "batch_size": settings["batch_size"],
                "learning_rate": settings["lr_base"],
                "max_grad_norm": settings["grad_clip"],
                "optimizer": {
                    "name": "adam",
                    "betas": [options["beta1"], options["beta2"]],
                    "eps": options["eps"],
                    "weight_decay": options["weight_decay"],
                },
                "schedule": {
                    "name": "warmup-staircase",
                    "warmup_epochs": settings["warmup_epochs"],
                    "decay_epochs": settings["decay_epochs"],
                    "decay_factor": settings["decay_factor"],
                },
                "order_seed": 0,
                "workers": 0,
                "final_checkpoint": "last",
            },
            "reporters": [{"name": "jsonl"}],
            "built_in_reporters": False,
        }
    )


def trained(golden: Path, of: Original, tmp_path: Path, store_dtype: str = "float32") -> RunResult:
    files = prepared(golden, of, tmp_path, store_dtype)
    (tmp_path / "mini.yaml").write_text(experiment_text(of))
    return run_experiment(load_experiment(tmp_path / "mini.yaml", [f"data_root={files}", f"runs_root={tmp_path}"]))


def metrics_of(result: RunResult, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def predictions_of(result: RunResult, of: Original) -> list[dict[str, Any]]:
    path = result.folder / "predictions" / f"{of.task.name}_{of.task.evaluate[0]}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_steps(result: RunResult, of: Original, dtype: str) -> None:
    steps, tolerance = metrics_of(result, "step"), TOLERANCES[dtype]
    reference = of.of_run("loss" if dtype == "float64" else "loss32")
    np.testing.assert_allclose([step["learning_rate"] for step in steps], of.of_run("lr"), rtol=1e-12)
    # the original rounds its binary cross entropy to float32, in its float64 run too
    rounded = np.finfo(np.float32).eps if of.task is VQA else 0.0
    np.testing.assert_allclose([step["loss"] for step in steps], reference, rtol=tolerance.loss + 2 * rounded)
    norms = [step["gradient_norm"] for step in steps]
    np.testing.assert_allclose(norms, of.of_run("grad_norm_before_clip"), rtol=tolerance.norm)


def parameter_pairs(result: RunResult, of: Original, dtype: str) -> Iterator[tuple[str, Any, Any]]:
    """The original's name, our values and theirs of all parameters at the end."""
    ours = load_file(result.folder / "checkpoints" / "last" / "model.safetensors")
    prefix, head, named = f"{of.task.name}/final/", of.task.head, set()
    for name in (key.removeprefix(prefix) for key in of.run.files if key.startswith(prefix)):
        of_head = name.startswith(f"{head}.")
        key = f"heads.{of.task.name}.{name.removeprefix(f'{head}.')}" if of_head else f"backbone.{name}"
        named.add(key)
        # a softmax follows these, so their gradient is rounding noise, which Adam blows up to full steps
        is_noise = name.endswith(("dense_k.bias", "dense_rank.bias"))
        if TOLERANCES[dtype].includes_noise or not is_noise:
            yield name, ours[key].numpy(), of.of_run(f"final/{name}")
    matching_head = {f"backbone.mm_itm_head.dense.{kind}" for kind in ("weight", "bias")}  # the original has none here
    assert named == set(ours) - matching_head


def assert_same_parameters(result: RunResult, of: Original, dtype: str) -> None:
    for name, ours, theirs in parameter_pairs(result, of, dtype):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCES[dtype].parameter, err_msg=name)


def assert_same_boxes(result: RunResult, of: Original, dtype: str) -> None:
    predictions, tolerance = predictions_of(result, of), TOLERANCES[dtype].box
    assert [prediction["region"] for prediction in predictions] == of.of_run("final_best_region").tolist()
    np.testing.assert_allclose([p["box"] for p in predictions], of.of_run("final_pred_box"), atol=tolerance)
    np.testing.assert_allclose([p["iou"] for p in predictions], of.of_run("final_iou"), atol=tolerance / 10)


def test_referring_expressions(golden: Path, dtype: str, tmp_path: Path) -> None:
    of = original(golden, REC)
    result = trained(golden, of, tmp_path)
    assert_same_steps(result, of, dtype)
    assert_same_parameters(result, of, dtype)
    assert_same_boxes(result, of, dtype)


def test_questions_with_the_switch_of_losses(golden: Path, dtype: str, tmp_path: Path) -> None:
    of = original(golden, VQA)
    result = trained(golden, of, tmp_path)
    assert_same_steps(result, of, dtype)
    assert_same_parameters(result, of, dtype)

    submitted = json.loads((result.folder / "submission" / "vqa_minival.json").read_text())
    assert submitted == of.notes["result_file_after_last_epoch"]
    after_each_epoch = [
        row["value"] for row in metrics_of(result, "result") if row["name"] == "accuracy" and not row["final"]
    ]
    np.testing.assert_allclose(after_each_epoch, of.notes["overall_accuracy_after_each_epoch"], atol=0.06)


def test_a_store_of_half_precision_trains_nearly_the_same(golden: Path, tmp_path: Path) -> None:
    """Stores hold float16 unless asked otherwise: 11 bits, so features are off by a share of up to 0.0005."""
    of, dtype = original(golden, REC), "float16 store"
    result = trained(golden, of, tmp_path, store_dtype="float16")
    assert_same_steps(result, of, dtype)
    assert_same_boxes(result, of, dtype)

    pairs = list(parameter_pairs(result, of, dtype))
    start = {name: of.network[f"state/{name}"] for name, _, _ in pairs}
    moved = np.sqrt(sum(np.square(theirs - start[name]).sum() for name, _, theirs in pairs))
    apart = np.sqrt(sum(np.square(ours - theirs).sum() for _, ours, theirs in pairs))
    assert apart < TOLERANCES[dtype].parameter * moved
