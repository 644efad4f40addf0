"""LXMERT-S's retrieval: four pairs per caption and their loss, some updates, and its evaluation from its own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from optimising import make_optimizer, make_options, make_schedule
from torch import Tensor, nn

from vlrun import Encoding, Example, Experiment, load_experiment, run_experiment
from vlrun.cli import main
from vlrun.engine.optimisation import clip_gradients, set_learning_rate
from vlrun.engine.weights import load_weights
from vlrun.foreign.yaml import dump_yaml
from vlrun.plugins.manager import create_plugins
from vlrun.runs.run import RunResult
from vlrun.seeds import example_rng
from vlrun.testing import make_regions
from vlrun_retrieval.candidates import CandidatePool
from vlrun_retrieval.hard_negatives import HardNegatives, write_negatives

pytestmark = pytest.mark.golden

CLS_ROW, ROWS = 101, 30522  # of the visual [CLS] table, as the authors' files have it
TABLE = "lxrt_encoder.model.bert.word_embeddings.weight"
HEAD = {"seq_relationship_new.weight": "seq_relationship.weight", "seq_relationship_new.bias": "seq_relationship.bias"}


class Original:
    """``training``: one batch in each step; ``files``: what the data readers and evaluations gave."""

    def __init__(self, golden: Path) -> None:
        self.folder = golden / "lxmert_s"
        self.training = np.load(self.folder / "ir.npz")
        self.files = np.load(self.folder / "data_and_e2e.npz")
        self.steps = range(len(self.training["train/loss"]))
        self.cls_id = (self.folder / "tiny_vocab.txt").read_text().split().index("[CLS]")  # in the tiny networks

    def option(self, name: str) -> Any:
        return self.training[name].item()


@pytest.fixture
def original(golden: Path) -> Original:
    return Original(golden)


def under(vectors: Any, folder: str) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(f"{folder}/"): vectors[key] for key in vectors.files if key.startswith(f"{folder}/")}


def size_of(vectors: Any, array: str, axis: int) -> int:
    """How long an axis is of the arrays of that name, which all share it."""
    return next(int(vectors[name].shape[axis]) for name in vectors.files if name.endswith(f"/{array}"))


def import_weights(state: dict[str, NDArray[Any]], cls_id: int, root: Path) -> None:
    """By way of a snapshot of the authors' retrieval network, its visual [CLS] table with all of its rows."""
    table = torch.zeros(ROWS, state[TABLE].shape[1])
    table[CLS_ROW] = torch.from_numpy(state[TABLE][cls_id])
    torch.save({**{name: torch.from_numpy(array) for name, array in state.items()}, TABLE: table}, root / "BEST.pth")
    weights = str(root / "weights.safetensors")
    assert main(["weights", "import", "--from", "lxmert-s", str(root / "BEST.pth"), weights]) == 0


def experiment_in(root: Path, original: Original, vectors: Any, **task: Any) -> Experiment:
    size = {name: value.item() for name, value in under(vectors, "config").items()}
    (root / "vocab.txt").write_bytes((original.folder / "tiny_vocab.txt").read_bytes())
    content = {
        "backbone": {
            "name": "lxmert-s",
            "weights": "weights.safetensors",
            "vocabulary": "vocab.txt",
            "hidden_size": size["hidden_size"],
            "num_heads": size["num_attention_heads"],
            "feed_forward_size": size["intermediate_size"],
            "num_language_layers": size["l_layers"],
            "num_cross_layers": size["x_layers"],
            "num_object_layers": size["r_layers"],
            "max_positions": size["max_position_embeddings"],
            "region_feature_size": size["visual_feat_dim"],
            "num_regions": size_of(vectors, "feats", axis=-2),
            "dropout": 0.0,
        },
        "tasks": [
            {
                "name": "retrieval",
                "max_text_tokens": size_of(vectors, "input_ids", axis=-1),
                "loss": "four-way",
                "dataset": {
                    "name": "flickr30k",
                    "annotations": "annotations",
                    "features": "features",
                    "evaluate": ["test"],
                },
                **task,
            }
        ],
        "train": {"epochs": 0, "batch_size": 4, "learning_rate": 5e-5, "workers": 0},
        "reporters": [{"name": "jsonl"}],
        "built_in_reporters": False,
    }
    (root / "mini.yaml").write_text(dump_yaml(content))
    return load_experiment(root / "mini.yaml", [f"data_root={root}", f"runs_root={root}"])


# Steps of training on given batches


class Network:
    """Our backbone and task with the original's parameters."""

    def __init__(self, original: Original, root: Path) -> None:
        import_weights(under(original.training, "state"), original.cls_id, root)
        self.original = original
        experiment = experiment_in(root, original, original.training)
        plugins = create_plugins()
        self.backbone = plugins.find("backbone", "lxmert-s").build(experiment.backbone)
        self.task = plugins.find("task", "retrieval").build(experiment.tasks[0])
        self.head = self.task.build_head(self.backbone)
        assert not load_weights(self.backbone, experiment.backbone.weights).missing

    def batch(self, step: int) -> tuple[Encoding, dict[str, Tensor]]:
        field = {
            name: torch.from_numpy(array).flatten(0, 1)
            for name, array in under(self.original.training, f"in/step{step}").items()
        }
        encoding = Encoding(
            token_ids=field["input_ids"],
            text_mask=field["input_mask"].bool(),
            region_features=field["feats"],
            boxes=field["boxes"],
            region_mask=torch.ones_like(field["boxes"][..., 0], dtype=torch.bool),
            position_ids=field["token_position"],
        )
        targets = self.task.collate([None] * (len(field["feats"]) // 4), None, encoding)
        assert torch.equal(F.one_hot(targets["matches"], 2).float(), field["target"])
        return encoding, targets

    def loss(self, step: int) -> tuple[Tensor, Tensor]:
        encoding, targets = self.batch(step)
        logits = self.head(self.backbone(encoding))
        return logits, self.task.loss(logits, targets)["matching"] / self.task.loss_counts(targets)["matching"]

    def parameters(self) -> dict[str, nn.Parameter]:
        """By the authors' names."""
        names = {ours: theirs for theirs, ours in HEAD.items()}
        return {
            names.get(name, f"lxrt_encoder.model.bert.{name}"): parameter
            for name, parameter in self.backbone.named_parameters()
        }

    def theirs(self, folder: str) -> dict[str, NDArray[Any]]:
        arrays = under(self.original.training, folder)
        row = self.original.cls_id
        return {**arrays, TABLE: arrays[TABLE][row : row + 1]}


@pytest.fixture
def network(original: Original, tmp_path: Path) -> Network:
    return Network(original, tmp_path)


def test_logits_and_probabilities_of_four_pairs(original: Original, network: Network) -> None:
    for step in original.steps:
        logits, _ = network.loss(step)
        np.testing.assert_allclose(logits.detach(), original.training[f"out/step{step}/logit_init"], atol=2e-5)
        probability = network.task.pair_scores(logits).sigmoid().detach()
        np.testing.assert_allclose(probability, original.training[f"out/step{step}/prob_init"][:, 1], atol=2e-5)


def test_the_loss_of_validation_is_half_of_that_of_training(original: Original, network: Network) -> None:
    losses = [network.loss(step)[1].item() for step in original.steps]
    assert np.mean(losses) / 2 == pytest.approx(original.option("out/valid_loss_init"), rel=1e-5)


def test_gradients(network: Network) -> None:
    network.loss(0)[1].backward()
    theirs = network.theirs("grad_step0")
    differences = {
        name: float(np.max(np.abs(parameter.grad.numpy() - theirs[name]) / (1 + np.abs(theirs[name]))))
        for name, parameter in network.parameters().items()
    }
    assert set(differences) == set(theirs)
    assert max(differences.values()) <= 1e-4, differences


def test_updates(original: Original, network: Network) -> None:
    total = original.option("train/t_total")
    optimizer = make_optimizer(make_options("optimizer", name="bert-adam"), network.parameters().items())
    schedule = make_options("schedule", name="warmup-linear", warmup_epochs=original.option("train/warmup") * total)
    rate = make_schedule(schedule, original.option("train/lr_peak"), steps_per_epoch=1, epochs=total)
    rates, losses, norms = [], [], []
    for step in original.steps:
        optimizer.zero_grad()
        _, loss = network.loss(step)
        loss.backward()
        norms.append(clip_gradients(network.parameters().values(), original.option("train/clip_max_norm")).item())
        losses.append(loss.item())
        rates.append(rate(step))
        set_learning_rate(optimizer, rate(step))
        optimizer.step()
    assert rates == pytest.approx(original.training["train/lr_used"].tolist(), rel=1e-12)
    assert losses == pytest.approx(original.training["train/loss"].tolist(), rel=1e-5)
    assert norms == pytest.approx(original.training["train/grad_norm_before_clip"].tolist(), rel=1e-4)
    trained = {
        name: float(np.abs(network.parameters()[name].detach().numpy() - theirs).max())
        for name, theirs in network.theirs("after3").items()
    }
    noise = {name for name in trained if name.endswith(".key.bias")}  # the softmax leaves their gradient at rounding
    assert max(trained[name] for name in set(trained) - noise) <= 1e-4, trained
    assert max(trained[name] for name in noise) <= 2e-3, trained
    probability = network.loss(0)[0].softmax(-1).detach()
    np.testing.assert_allclose(probability, original.training["out/step0/prob_after3"], atol=1e-4)


# The original's files


@pytest.fixture
def files(original: Original, tmp_path: Path) -> Path:
    """The authors' files through our commands, as a user would do it."""
    import_weights(under(original.files, "e2e/state"), original.cls_id, tmp_path)
    data = original.folder / "mini_data"
    captions, features = data / "image_retrieval", [str(path) for path in sorted((data / "flickr30k").glob("*.tsv"))]
    commands = [
        ["data", "build", "flickr30k", "--from", "lxmert-s", str(captions), str(tmp_path / "annotations")],
        ["features", "build", "--from", "lxmert-tsv", "--dtype", "float32", *features, str(tmp_path / "features")],
    ]
    assert [main(command) for command in commands] == [0, 0]
    return tmp_path


class Given:
    """Negatives that the original drew."""

    def __init__(self, caption: str, image: str = "") -> None:
        self.drawn = (caption, image)

    def caption(self, example: Example[Any], rng: Any) -> str:
        return self.drawn[0]

    def image(self, example: Example[Any], rng: Any) -> str:
        return self.drawn[1]


def run_on_files(files: Path, original: Original, **task: Any) -> Experiment:
    return experiment_in(files, original, original.files, **task)


def test_the_four_pairs_of_a_caption_reach_the_network_as_in_the_original(original: Original, files: Path) -> None:
    experiment = run_on_files(files, original)
    dataset = create_plugins().find("dataset", "flickr30k").build(experiment.tasks[0].dataset, "train")
    for item, index in enumerate(original.files["ir_train/index"]):
        check_four_pairs(original, experiment, dataset[int(index)], item)


def check_four_pairs(original: Original, experiment: Experiment, example: Example[Any], item: int) -> None:
    theirs, plugins = under(original.files, f"ir_train/{item}"), create_plugins()
    task = plugins.find("task", "retrieval").build(experiment.tasks[0])
    own, hard, random = (str(caption) for caption in theirs["captions"])
    image = str(theirs["negative_image"]).removesuffix(".jpg")
    assert example.text == own
    task._random, task.hard = Given(random, image), Given(hard)

    pairs = task.pairs(example, example_rng(0, 0, 0))
    backbone = plugins.find("backbone", "lxmert-s").build(experiment.backbone)
    regions = make_regions([pair.image_id for pair in pairs], experiment.backbone.region_feature_size)
    encoding = backbone.pair_encoder(experiment.tasks[0].max_text_tokens)(pairs, regions)
    assert [pair.image_id for pair in pairs] == [example.image_ids[0], image, *example.image_ids * 2]
    fields = {
        "input_ids": encoding.token_ids,
        "token_position": encoding.position_ids,
        "input_mask": encoding.text_mask,
    }
    for name, ours in fields.items():
        padded = F.pad(ours.long(), (0, theirs[name].shape[1] - ours.shape[1]))
        np.testing.assert_array_equal(padded, theirs[name], err_msg=name)
    matches = task.collate([example], None, encoding)["matches"]
    np.testing.assert_array_equal(F.one_hot(matches, 2), theirs["target"])


def test_a_pool_file_of_the_original_s_neighbours_offers_its_hard_captions(original: Original, files: Path) -> None:
    """hard_negative.pkl ranks images; ours names captions, so all captions of those images."""
    ranked = json.loads((original.folder / "mini_data/image_retrieval/hard_negative.json").read_text())
    neighbours = np.array(ranked["train_hard_pool"], np.int32)[:, 1:]  # the first is the image itself
    experiment = run_on_files(files, original, negatives={"name": "pool", "file": "hard.npz"})
    plugins = create_plugins()
    dataset = plugins.find("dataset", "flickr30k").build(experiment.tasks[0].dataset, "train")
    pool = CandidatePool.of(dataset)
    assert [int(name) for name in pool.image_ids] == ranked["train_image_list"]
    texts = np.array([np.concatenate([pool.texts_of(image) for image in row]) for row in neighbours], np.int32)
    write_negatives(files / "hard.npz", pool, HardNegatives(texts, neighbours[pool.owner]), {"from": "ViLBERT"})
    task = plugins.find("task", "retrieval").build(experiment.tasks[0])
    task.start_training(dataset, seed=0)
    for item, index in enumerate(original.files["ir_train/index"]):
        own, hard, _ = (str(caption) for caption in original.files[f"ir_train/{item}/captions"])
        assert dataset[int(index)].text == own
        drawn = {task.pairs(dataset[int(index)], example_rng(0, epoch, int(index)))[2].text for epoch in range(300)}
        assert hard in drawn


def scores_of(result: RunResult) -> dict[str, float]:
    return {row.score.name: row.score.value for row in result.rows}


def ranks_of(result: RunResult, protocol: str) -> dict[str, int]:
    """Rank from 0 of each query; no score of the vectors is tied with the right one."""
    lines = (result.folder / "predictions" / "retrieval_test.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    assert not any(tied for row in predictions if protocol in row["ranks"] for tied in row["ranks"][protocol][1:])
    return {row["id"]: row["ranks"][protocol][0] for row in predictions if protocol in row["ranks"]}


def assert_same_direction(ours: dict[str, float], direction: str, suffix: str, theirs: dict[str, Any]) -> None:
    names = {"R@1": "r1", "R@5": "r5", "R@10": "r10", "median rank": "medr", "mean rank": "meanr"}
    assert {name: ours[f"{direction} {name}{suffix}"] for name in names} == pytest.approx(
        {name: theirs[key].item() for name, key in names.items()}
    )


@pytest.mark.parametrize("program", ["zero_shot", "finetuned"])
def test_image_retrieval_from_the_authors_files(original: Original, files: Path, program: str) -> None:
    result = run_experiment(run_on_files(files, original))
    theirs = under(original.files, f"e2e/ir_{program}")
    log_odds = np.load(result.folder / "scores" / "retrieval_test.npy").astype(np.float64)  # (images, captions)
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds.T)), theirs["score_matrix"], atol=2e-5)
    ranks = ranks_of(result, "all")
    captions = [rank for query, rank in ranks.items() if not query.startswith("image:")]
    assert captions == theirs["rank_matrix"].tolist()
    assert_same_direction(scores_of(result), "IR", "", theirs)


def first_captions(original: Original) -> list[int]:
    """The columns of the first caption of each image, in the order of the file."""
    content = json.loads((original.folder / "mini_data/image_retrieval/flickr30k_test2014.json").read_text())
    counts = [len(row["sentences"]) for row in content]
    return [sum(counts[:place]) for place in range(len(counts))]


@pytest.mark.parametrize(("program", "score"), [("zero_shot", "log-odds"), ("finetuned", "match-logit")])
def test_text_retrieval_from_the_authors_files(original: Original, files: Path, program: str, score: str) -> None:
    """The original's rows are in the order of its TSV, its candidates the first caption of each image."""
    result = run_experiment(run_on_files(files, original, score=score, protocols=["all", "first-caption"]))
    theirs = under(original.files, f"e2e/tr_{program}")
    images = [str(name).removesuffix(".jpg") for name in original.files["ir_json_order"]]
    rows = [str(name).removesuffix(".jpg") for name in original.files["ir_tsv_order"]]
    ours = np.load(result.folder / "scores" / "retrieval_test.npy").astype(np.float64)
    ours = ours[[images.index(name) for name in rows]][:, first_captions(original)]
    ours = 1 / (1 + np.exp(-ours)) if score == "log-odds" else ours
    np.testing.assert_allclose(ours, theirs["score_matrix"], atol=2e-5)
    ranks = ranks_of(result, "first-caption")
    assert [ranks[f"image:{name}"] for name in rows] == theirs["rank_matrix"].tolist()
    assert_same_direction(scores_of(result), "TR", " [first-caption]", theirs)
