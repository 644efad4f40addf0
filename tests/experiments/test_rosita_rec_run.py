"""A whole training run on the original's own files equals the original: losses, rates, parameters, predictions."""

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
from vlrun.yaml_source import dump_yaml

pytestmark = pytest.mark.golden

TRUNK = ("text_embeddings", "visual_embeddings", "backbone", "pooler")
HEAD = "mm_refs_head"


@dataclass(frozen=True)
class Tolerances:
    loss: float
    parameter: float
    box: float
    includes_noise: bool


TOLERANCES = {
    "float32": Tolerances(loss=1e-5, parameter=1e-4, box=1e-2, includes_noise=False),
    "float64": Tolerances(loss=5e-8, parameter=1e-6, box=1e-6, includes_noise=True),
}


@dataclass(frozen=True)
class Originals:
    network: Any
    run: Any
    settings: dict[str, Any]
    epochs: int


@pytest.fixture(scope="module")
def originals(golden: Path) -> Originals:
    folder = golden / "rosita"
    notes = json.loads((folder / "e2e.json").read_text())["rec"]
    return Originals(np.load(folder / "rec.npz"), np.load(folder / "e2e.npz"), notes["settings"], notes["epochs"])


@pytest.fixture(scope="module")
def files(golden: Path, originals: Originals, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original's files through our builders, as a user would do it."""
    mini = golden / "rosita" / "mini"
    root = tmp_path_factory.mktemp("mini")
    annotations = mini / "annotations" / "rec-refcoco" / "rec_refcoco_annotations.json"
    features = mini / "imgfeats" / "mscoco_bua_r101_fix36"
    network = originals.network
    names = [name.removeprefix("state/") for name in network.files if name.startswith("state/")]
    layout: dict[str, dict[str, torch.Tensor]] = {module: {} for module in (*TRUNK, HEAD)}
    for name in names:
        module, _, key = name.partition(".")
        layout[module][key] = torch.from_numpy(network[f"state/{name}"])
    torch.save({"epoch": 1, **layout}, root / "rosita.pkl")
    commands = [
        ["data", "build", "refcoco", "--from", "rosita", str(annotations), str(root / "annotations")],
        ["features", "build", "--from", "rosita-tsv", "--dtype", "float32", str(features), str(root / "features")],
        ["weights", "import", "--from", "rosita", str(root / "rosita.pkl"), str(root / "weights.safetensors")],
    ]
    assert [main(command) for command in commands] == [0, 0, 0]
    (root / "vocab.txt").write_bytes((mini / "vocab.txt").read_bytes())
    return root


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    torch.set_default_dtype(getattr(torch, request.param))
    yield request.param
    torch.set_default_dtype(torch.float32)


def experiment_text(originals: Originals) -> str:
    sizes = {
        key: originals.network[f"cfg/{key}"].item()
        for key in ("hsize", "layers", "heads", "hff", "imgfeat", "regions", "text_len", "pos")
    }
    options = {key: originals.network[f"opt/{key}"].item() for key in ("beta1", "beta2", "eps", "weight_decay")}
    settings = originals.settings
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
                    "name": "rec",
                    "max_text_tokens": sizes["text_len"],
                    "score_padded_regions": True,
                    "dataset": {
                        "name": "refcoco",
                        "annotations": "annotations",
                        "features": "features",
                        "evaluate": ["val"],
                    },
                }
            ],
            "train": {
                "epochs": originals.epochs,
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
        }
    )


def test_a_whole_training_run_equals_the_original(
    originals: Originals, files: Path, dtype: str, tmp_path: Path
) -> None:
    tolerances, run = TOLERANCES[dtype], originals.run
    (tmp_path / "mini.yaml").write_text(experiment_text(originals))
    experiment = load_experiment(tmp_path / "mini.yaml", [f"data_root={files}", f"runs_root={tmp_path}"])
    result = run_experiment(experiment)

    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    reference = run["rec/loss32"] if dtype == "float32" else run["rec/loss"]
    np.testing.assert_allclose([step["learning_rate"] for step in steps], run["rec/lr"], rtol=1e-12)
    np.testing.assert_allclose([step["loss"] for step in steps], reference, rtol=tolerances.loss)
    norms = [step["gradient_norm"] for step in steps]
    np.testing.assert_allclose(norms, run["rec/grad_norm_before_clip"], rtol=max(tolerances.loss * 100, 1e-7))

    ours = load_file(result.folder / "checkpoints" / "last" / "model.safetensors")
    compared = 0
    for name in (key.removeprefix("rec/final/") for key in run.files if key.startswith("rec/final/")):
        # a softmax follows these, so their gradient is rounding noise, which Adam blows up to full steps
        is_noise = name.endswith(("dense_k.bias", "dense_rank.bias"))
        if tolerances.includes_noise or not is_noise:
            key = f"heads.rec.{name.removeprefix(f'{HEAD}.')}" if name.startswith(HEAD) else f"backbone.{name}"
            np.testing.assert_allclose(ours[key].numpy(), run[f"rec/final/{name}"], atol=tolerances.parameter)
            compared += 1
    assert compared > 0.8 * len(ours)

    lines = (result.folder / "predictions" / "rec_val.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    assert [prediction["region"] for prediction in predictions] == run["rec/final_best_region"].tolist()
    np.testing.assert_allclose([p["box"] for p in predictions], run["rec/final_pred_box"], atol=tolerances.box)
    np.testing.assert_allclose([p["iou"] for p in predictions], run["rec/final_iou"], atol=tolerances.box / 10)
