"""ROSITA's fine-tuning for retrieval: its network, loss and mining, and a whole run on the original's own files.

What the original drew at random (negatives, and candidates of its mining) is given to ours; all else is ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from optimising import make_optimizer, make_options, make_schedule
from safetensors.torch import load_file
from torch import Tensor, nn

from vlrun import Encoding, Experiment, Pair, load_experiment, run_experiment
from vlrun.cli import main
from vlrun.engine.optimisation import clip_gradients, set_learning_rate
from vlrun.engine.weights import load_weights
from vlrun.foreign.yaml import dump_yaml
from vlrun.plugins.manager import create_plugins
from vlrun.runs.run import RunResult
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.hard_negatives import read_negatives

pytestmark = pytest.mark.golden

ANNOTATIONS, FEATURES = "annotations/itr-coco/itr_coco_annotations.json", "imgfeats/mscoco_bua_r101_fix36"
HEAD = "mm_itm_head"


@dataclass(frozen=True)
class Tolerances:
    """Those of the vectors' README; ``gradient`` is a share of the largest one, ``score`` a probability."""

    output: float
    loss: float
    gradient: float
    trained: float
    score: float
    includes_noise: bool


TOLERANCES = {
    "float32": Tolerances(output=2e-5, loss=1e-5, gradient=1e-4, trained=1e-4, score=2e-5, includes_noise=False),
    "float64": Tolerances(output=1e-9, loss=1e-9, gradient=1e-9, trained=1e-8, score=1e-6, includes_noise=True),
}


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    torch.set_default_dtype(getattr(torch, request.param))
    yield request.param
    torch.set_default_dtype(torch.float32)


class Original:
    """What the original computed: ``network`` for one batch, ``run`` in a training over ``golden/rosita/mini``."""

    def __init__(self, golden: Path) -> None:
        folder = golden / "rosita"
        self.mini = folder / "mini"
        self.network, self.run = np.load(folder / "itr.npz"), np.load(folder / "e2e.npz")
        self.settings: dict[str, Any] = json.loads((folder / "e2e.json").read_text())["itr"]

    def option(self, name: str) -> Any:
        return self.network[name].item()

    def under(self, folder: str) -> dict[str, Any]:
        return {
            name.removeprefix(f"{folder}/"): self.network[name]
            for name in self.network.files
            if name.startswith(f"{folder}/")
        }


@pytest.fixture
def original(golden: Path) -> Original:
    return Original(golden)


@pytest.fixture
def experiment(original: Original, tmp_path: Path) -> Experiment:
    """The run of the original; its files went through our commands, as a user would do it."""
    layout: dict[str, Any] = {"epoch": 1}
    for key, array in original.under("state").items():
        module, _, name = key.partition(".")
        layout.setdefault(module, {})[name] = torch.from_numpy(array)
    torch.save(layout, tmp_path / "rosita.pkl")
    (tmp_path / "vocab.txt").write_bytes((original.mini / "vocab.txt").read_bytes())
    annotations, features = str(original.mini / ANNOTATIONS), str(original.mini / FEATURES)
    weights = [str(tmp_path / "rosita.pkl"), str(tmp_path / "weights.safetensors")]
    commands = [
        ["data", "build", "coco-retrieval", "--from", "rosita", annotations, str(tmp_path / "annotations")],
        ["features", "build", "--from", "rosita-tsv", "--dtype", "float32", features, str(tmp_path / "features")],
        ["weights", "import", "--from", "rosita", *weights],
    ]
    assert [main(command) for command in commands] == [0, 0, 0]
    (tmp_path / "mini.yaml").write_text(dump_yaml(experiment_of(original)))
    return load_experiment(tmp_path / "mini.yaml", [f"data_root={tmp_path}", f"runs_root={tmp_path}"])


def experiment_of(original: Original) -> dict[str, Any]:
    settings = original.settings["settings"]
    mined = {"name": "mined", "candidates": settings["neg_rand_size"], "keep": settings["neg_hard_size"]}
    return {
        "backbone": {
            "name": "rosita",
            "weights": "weights.safetensors",
            "vocabulary": "vocab.txt",
            "hidden_size": original.option("cfg/hsize"),
            "num_layers": original.option("cfg/layers"),
            "num_heads": original.option("cfg/heads"),
            "feed_forward_size": original.option("cfg/hff"),
            "max_positions": original.option("cfg/pos"),
            "region_feature_size": original.option("cfg/imgfeat"),
            "num_regions": original.option("cfg/regions"),
            "dropout": 0.0,
        },
        "tasks": [
            {
                "name": "retrieval",
                "max_text_tokens": original.option("cfg/text_len"),
                "loss": "triple",
                "negatives": mined,
                "dataset": {
                    "name": "coco-retrieval",
                    "annotations": "annotations",
                    "features": "features",
                    "evaluate": ["test1k"],
                },
            }
        ],
        "train": {
            "epochs": original.settings["epochs"],
            "batch_size": settings["batch_size"],
            "learning_rate": settings["lr_base"],
            "max_grad_norm": settings["grad_clip"],
            "optimizer": optimizer_of(original),
            "schedule": {
                "name": "warmup-staircase",
                "warmup_epochs": settings["warmup_epochs"],
                "decay_epochs": settings["decay_epochs"],
                "decay_factor": settings["decay_factor"],
            },
            "order_seed": 0,
            "workers": 0,
            "final_checkpoint": "last",
            "log_every": 1,
        },
        "reporters": [{"name": "jsonl"}],
        "built_in_reporters": False,
    }


def optimizer_of(original: Original) -> dict[str, Any]:
    beta1, beta2, eps, decay = (original.option(f"opt/{name}") for name in ("beta1", "beta2", "eps", "weight_decay"))
    return {"name": "adam", "betas": [beta1, beta2], "eps": eps, "weight_decay": decay}


# One batch, three pairs of each example in one forward


class Network:
    """Our backbone and task with the original's parameters, and the original's batch as our loader would give it."""

    def __init__(self, original: Original, experiment: Experiment, dtype: str) -> None:
        plugins = create_plugins()
        self.dtype = getattr(torch, dtype)
        self.backbone = plugins.find("backbone", "rosita").build(experiment.backbone)
        self.task = plugins.find("task", "retrieval").build(experiment.tasks[0])
        self.head = self.task.build_head(self.backbone)
        report = load_weights(self.backbone, experiment.backbone.weights)
        assert not report.missing
        own, donor = original.under("pos"), original.under("neg")
        text = ("text_ids", "text_mask")
        other_text = {**own, **{name: donor[name] for name in text}}
        other_image = {**donor, **{name: own[name] for name in text}}
        pairs = {name: np.stack([own[name], other_text[name], other_image[name]], axis=1) for name in own}
        field = {name: torch.from_numpy(array).flatten(0, 1) for name, array in pairs.items()}
        self.encoding = Encoding(
            token_ids=field["text_ids"],
            text_mask=field["text_mask"].bool(),
            region_features=field["imgfeat"].to(self.dtype),
            boxes=field["bbox"].to(self.dtype),
            region_mask=field["imgfeat_mask"].bool(),
        )
        self.targets = self.task.collate([None] * len(own["text_ids"]), None, self.encoding)

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.backbone.named_parameters())

    def loss(self) -> tuple[Tensor, Tensor]:
        """Logits (B, 3, 2) and the loss, as the core divides and adds it."""
        logits = self.head(self.backbone(self.encoding))
        counts = self.task.loss_counts(self.targets)
        parts = [value / counts[name] for name, value in self.task.loss(logits, self.targets).items()]
        return logits.unflatten(0, (-1, 3)), torch.stack(parts).sum()


@pytest.fixture
def network(original: Original, experiment: Experiment, dtype: str) -> Network:
    return Network(original, experiment, dtype)


def difference(ours: Tensor, theirs: Any) -> float:
    return float((ours.detach().double() - torch.from_numpy(np.asarray(theirs)).double()).abs().max())


def is_noise(name: str) -> bool:
    """A softmax follows, so the gradient is rounding noise, which Adam blows up to full steps."""
    return name.endswith("dense_k.bias")


def test_logits_loss_and_gradients_of_three_pairs_in_one_forward(
    original: Original, network: Network, dtype: str
) -> None:
    tolerance = TOLERANCES[dtype]
    logits, loss = network.loss()
    loss.backward()
    for place, name in enumerate(("pred_pos", "pred_neg_text", "pred_neg_img")):
        assert difference(logits[:, place], original.network[f"out/{name}"]) <= tolerance.output
    odds = network.task.pair_scores(logits[:, 0])
    assert difference(odds.sigmoid(), original.network["out/score_pos"]) <= tolerance.output
    assert loss.item() == pytest.approx(original.option("loss/total"), rel=tolerance.loss)
    gradients = original.under("grad")
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values()) if dtype == "float32" else 1.0
    differences = {name: difference(network.parameters()[name].grad, gradients[name]) for name in gradients}
    assert set(differences) == set(network.parameters())
    assert max(differences.values()) <= tolerance.gradient * largest, differences


def test_updates(original: Original, network: Network, experiment: Experiment, dtype: str) -> None:
    tolerance = TOLERANCES[dtype]
    optimizer = make_optimizer(experiment.train.optimizer, network.parameters().items())
    schedule = make_options("schedule", name="warmup-staircase", warmup_epochs=original.option("opt/warmup_epochs"))
    steps = len(original.network["trace/lr"])
    rate = make_schedule(schedule, original.option("opt/lr_base"), original.option("opt/epoch_steps"), epochs=steps)
    rates, losses, norms = [], [], []
    for step in range(steps):
        optimizer.zero_grad()
        _, loss = network.loss()
        loss.backward()
        norms.append(clip_gradients(network.parameters().values(), original.option("opt/clip")).item())
        losses.append(loss.item())
        rates.append(rate(step))
        set_learning_rate(optimizer, rate(step))
        optimizer.step()
    assert rates == pytest.approx(original.network["trace/lr"].tolist(), rel=1e-12)
    assert losses == pytest.approx(original.network["trace/loss"].tolist(), rel=10 * tolerance.loss)
    assert norms == pytest.approx(original.network["trace/grad_norm_before_clip"].tolist(), rel=100 * tolerance.loss)
    trained = {
        name: difference(parameter, original.network[f"after3/{name}"])
        for name, parameter in network.parameters().items()
        if tolerance.includes_noise or not is_noise(name)
    }
    assert max(trained.values()) <= tolerance.trained, trained


# The whole run


class Replay:
    """Gives our run the draws of the original, and keeps what it scored and mined."""

    def __init__(self, original: Original, monkeypatch: pytest.MonkeyPatch) -> None:
        from vlrun_retrieval import mining, pool
        from vlrun_retrieval.task import RetrievalTask

        self.original, self.epoch = original, -1
        self.mined: list[NDArray[np.float32]] = []
        self.matrices: list[NDArray[np.float32]] = []
        rows, per_epoch = original.run["itr/pos_text"], len(original.run["itr/pos_text"]) // original.settings["epochs"]
        self.drawn = {
            (step // per_epoch, int(text)): (int(negative), int(image))
            for step, row in enumerate(rows)
            for text, negative, image in zip(
                row, original.run["itr/neg_text"][step], original.run["itr/neg_image"][step], strict=True
            )
        }
        start_epoch = RetrievalTask.start_epoch
        hardest, predictions = mining.hardest, pool.pool_predictions

        def epoch_starts(task: Any, epoch: int, miner: Any) -> None:
            self.epoch = epoch
            start_epoch(task, epoch, miner)

        def drawn_pairs(task: Any, example: Any, negatives: Any, rng: Any) -> list[Pair]:
            table = task.random.table
            text, image = self.drawn[max(0, self.epoch), table.texts.row(example.id)]
            own = example.image_ids[0]
            return [Pair(example.text, own), Pair(table.text(text), own), Pair(example.text, table.image(image))]

        def given_candidates(
            pool: CandidatePool, seed: int, epoch: int, kind: str, anchor: int, count: int
        ) -> NDArray[np.int64]:
            candidates: NDArray[np.int64] = self.of_mining(epoch, kind, "cand_ids")[anchor]
            return candidates[:count]

        def kept_scores(scores: NDArray[np.float32], keep: int) -> NDArray[np.int64]:
            self.mined.append(scores.copy())
            return hardest(scores, keep)

        def kept_matrix(scores: Any, *others: Any) -> Any:
            self.matrices.append(np.array(scores))
            return predictions(scores, *others)

        monkeypatch.setattr(RetrievalTask, "start_epoch", epoch_starts)
        monkeypatch.setattr(RetrievalTask, "_pairs", drawn_pairs)
        monkeypatch.setattr(mining, "draw_candidates", given_candidates)
        monkeypatch.setattr(mining, "hardest", kept_scores)
        monkeypatch.setattr(pool, "pool_predictions", kept_matrix)

    def of_mining(self, epoch: int, kind: str, name: str) -> NDArray[Any]:
        prefix = {"image": "text", "text": "img"}[kind]  # images draw texts, and the reverse
        array: NDArray[Any] = self.original.run[f"itr/mine_epoch{epoch}/{prefix}_{name}"]
        return array


@pytest.fixture
def replay(original: Original, monkeypatch: pytest.MonkeyPatch) -> Replay:
    return Replay(original, monkeypatch)


def metrics_of(result: RunResult, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def sigmoid(log_odds: NDArray[Any]) -> NDArray[np.float64]:
    odds: NDArray[np.float64] = 1 / (1 + np.exp(-log_odds.astype(np.float64)))
    return odds


def assert_same_steps(result: RunResult, original: Original, dtype: str) -> None:
    steps, tolerance = metrics_of(result, "step"), TOLERANCES[dtype].loss
    theirs = original.run["itr/loss32" if dtype == "float32" else "itr/loss"]
    assert [step["learning_rate"] for step in steps] == pytest.approx(original.run["itr/lr"].tolist(), rel=1e-12)
    np.testing.assert_allclose([step["loss"] for step in steps], theirs, rtol=tolerance)
    norms = [step["gradient_norm"] for step in steps]
    np.testing.assert_allclose(norms, original.run["itr/grad_norm_before_clip"], rtol=tolerance * 100)


def assert_same_parameters(result: RunResult, original: Original, dtype: str) -> None:
    ours = load_file(result.folder / "checkpoints" / "last" / "model.safetensors")
    compared = set()
    for name in (key.removeprefix("itr/final/") for key in original.run.files if key.startswith("itr/final/")):
        # the head is shared by backbone and task, and a file has each tensor once
        key = next(key for key in (f"backbone.{name}", name.replace(HEAD, "heads.retrieval.layer")) if key in ours)
        if TOLERANCES[dtype].includes_noise or not is_noise(name):
            limit = max(TOLERANCES[dtype].trained, 2e-7)  # they were stored in float32
            np.testing.assert_allclose(ours[key].numpy(), original.run[f"itr/final/{name}"], atol=limit, err_msg=key)
        compared.add(key)
    assert compared == set(ours)


def assert_same_mining(result: RunResult, original: Original, replay: Replay, dtype: str) -> None:
    """Scores of all candidates, and what was kept of them, images compared as images."""
    dataset = create_plugins().find("dataset", "coco-retrieval")
    experiment = load_experiment(result.folder / "config.yaml")
    pool = CandidatePool.of(dataset.build(experiment.tasks[0].dataset, "train"))
    given = iter(replay.mined)
    for epoch in range(original.settings["epochs"]):
        for kind in ("image", "text"):
            scores = sigmoid(next(given))
            np.testing.assert_allclose(scores, replay.of_mining(epoch, kind, "scores"), atol=TOLERANCES[dtype].score)
        kept = read_negatives(result.folder / "negatives" / f"retrieval_epoch{epoch}.npz", pool)
        prefix = f"itr/mine_epoch{epoch}"
        assert np.sort(kept.texts_of_images).tolist() == np.sort(original.run[f"{prefix}/text_hard_ids"]).tolist()
        assert np.sort(kept.images_of_texts).tolist() == np.sort(original.run[f"{prefix}/img_hard_images"]).tolist()
    assert next(given, None) is None


def test_the_whole_run_equals_the_original(
    original: Original, experiment: Experiment, replay: Replay, dtype: str
) -> None:
    result = run_experiment(experiment)
    assert_same_steps(result, original, dtype)
    assert_same_parameters(result, original, dtype)
    assert_same_mining(result, original, replay, dtype)

    epochs = range(original.settings["epochs"])
    matrices = [*replay.matrices[: len(epochs)], np.load(result.folder / "scores" / "retrieval_test1k.npy")]
    for matrix, epoch in zip(matrices, (*epochs, epochs[-1]), strict=True):
        theirs = original.run[f"itr/score_matrix_epoch{epoch}"]
        np.testing.assert_allclose(sigmoid(matrix), theirs, atol=TOLERANCES[dtype].score)

    results = metrics_of(result, "result")
    for epoch, theirs in enumerate(original.settings["recall_after_each_epoch"]):
        ours = {row["name"]: row["value"] for row in results if row["epoch"] == epoch + 1 and not row["final"]}
        for direction in ("TR", "IR"):
            recalls = [ours[f"{direction} R@{count}"] for count in (1, 5, 10)]
            assert recalls == pytest.approx(theirs[f"{direction}_r1_r5_r10"]), (epoch, direction)
