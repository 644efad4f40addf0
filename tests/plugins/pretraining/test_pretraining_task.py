"""Pairs, losses and predictions of pre-training, by hand on small cases."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlrun import Batch, ConfigError, DataError, Example, Question, RegionFeatureStore
from vlrun.blocks.decoders import FEATURES, Undecoded
from vlrun.data.loading import BatchMaker
from vlrun.data.splits import JoinedSplits
from vlrun.seeds import example_rng
from vlrun.testing import check_metric, check_task
from vlrun_pretraining.head import PretrainingOutput
from vlrun_pretraining.metric import PretrainingAccuracy

V, D, H = 15, 6, 8


def images_drawn(task: Any, example: Example[Any], count: int = 400) -> Counter[str]:
    return Counter(task.pairs(example, example_rng(0, epoch, 0))[0].image_id for epoch in range(count))


# --- pairs ---


def test_half_of_the_captions_meet_another_image_of_their_own_split(make_task: Any, make_dataset: Any) -> None:
    task, train = make_task(), make_dataset("train")
    task.start_training(JoinedSplits([train]), 0)
    counts = images_drawn(task, train[0])
    assert set(counts) == {"train0", "train1", "train2", "train3"}
    assert counts["train0"] / 400 == pytest.approx(0.5, abs=0.07)
    assert min(counts.values()) > 400 / 6 * 0.6


def test_the_caption_stays_and_the_draw_is_addressed(make_task: Any, make_dataset: Any) -> None:
    task, val = make_task(), make_dataset("val")
    first = [task.pairs(val[index], example_rng(7, 0, index)) for index in range(9)]
    again = [pickle.loads(pickle.dumps(task)).pairs(val[index], example_rng(7, 0, index)) for index in range(9)]
    assert first == again
    assert [pairs[0].text for pairs in first] == [val[index].text for index in range(9)]


def test_evaluation_needs_no_training_and_draws_only_images_with_features(make_task: Any, make_dataset: Any) -> None:
    counts = images_drawn(make_task(), make_dataset("val")[0])
    assert set(counts) == {"val0", "val1", "val2"}, "val3 has no features"


def test_evaluation_draws_the_same_whether_or_not_it_follows_training(make_task: Any, make_dataset: Any) -> None:
    trained, fresh = make_task(), make_task()
    trained.start_training(make_dataset("train"), 0)
    example = make_dataset("val")[0]
    assert images_drawn(trained, example) == images_drawn(fresh, example)


@pytest.mark.parametrize(("mismatch", "matching"), [(0.0, 400), (1.0, 0)])
def test_the_share_of_mismatched_pairs_is_an_option(
    mismatch: float, matching: int, make_task: Any, make_dataset: Any
) -> None:
    assert images_drawn(make_task(mismatch=mismatch), make_dataset("val")[0])["val0"] == matching


def test_one_image_alone_cannot_be_mismatched(make_task: Any, make_dataset: Any) -> None:
    task, train = make_task(mismatch=1.0), make_dataset("train")
    task.start_training(_First(train), 0)
    with pytest.raises(DataError, match="split 'train' has one image alone"):
        task.pairs(train[0], example_rng(0, 0, 0))


def test_an_image_of_no_known_split_is_named(make_task: Any) -> None:
    with pytest.raises(DataError, match="image 'elsewhere' is in none of the splits val"):
        make_task(mismatch=1.0).pairs(Example("1", "cats", ("elsewhere",)), example_rng(0, 0, 0))


class _First:
    split = "train"

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def image_ids(self) -> list[str]:
        return [self.dataset[0].image_ids[0]] * 5


# --- targets and losses ---


@pytest.fixture
def maker(make_task: Any, make_dataset: Any, backbone: Any, data: Any) -> Any:
    """A loader's batch maker of the training split."""
    task, train = make_task(mask_words=0.5, mask_regions=0.5), make_dataset("train")
    task.start_training(train, 0)
    store = RegionFeatureStore(data / "features")
    return BatchMaker(task, train, store, backbone.pair_encoder(20), 3, vocabulary=backbone.wordpiece)


def test_a_pair_is_labelled_by_whether_it_has_its_own_image(maker: Any) -> None:
    addresses = [(0, index) for index in range(12)]
    batch = maker.__getitems__(addresses)
    examples, pairs = maker.pairs(addresses)
    own = [pair.image_id == example.image_ids[0] for example, (pair,) in zip(examples, pairs, strict=True)]
    assert batch.targets["matched"].tolist() == own
    assert 0 < sum(own) < 12


def test_a_batch_is_the_same_each_time_it_is_made(maker: Any) -> None:
    addresses = [(2, index) for index in range(12)]
    first, again = maker.__getitems__(addresses), maker.__getitems__(addresses)
    assert torch.equal(first.encoding.token_ids, again.encoding.token_ids)
    assert torch.equal(first.encoding.region_features, again.encoding.region_features)
    assert all(torch.equal(first.targets[name], again.targets[name]) for name in first.targets)


def output_of(matching: Any, num_pairs: int, length: int, num_regions: int) -> PretrainingOutput:
    torch.manual_seed(1)
    words = Undecoded(torch.randn(num_pairs, length, H), torch.randn(V, H), torch.randn(V))
    regions = Undecoded(torch.randn(num_pairs, num_regions, H), torch.randn(D, H), torch.randn(D))
    return PretrainingOutput(torch.tensor(matching), words, regions)


@pytest.fixture
def targets() -> dict[str, torch.Tensor]:
    """Three pairs, the second of which does not match; each has masked words and regions."""
    labels = torch.tensor([[-1, 7, -1, 9], [-1, 8, -1, -1], [-1, -1, 6, -1]])
    is_masked = torch.tensor([[True, False], [True, True], [False, True]])
    features = torch.linspace(-3, 3, 4 * D).view(4, D).half()
    return {
        "matched": torch.tensor([True, False, True]),
        "word_labels": labels,
        "region_is_masked": is_masked,
        "region_features": features,
    }


def plain_losses(output: PretrainingOutput, targets: Any, counts: list[bool]) -> dict[str, float]:
    """The same numbers, pair by pair and place by place."""
    sums = {"matching": 0.0, "words": 0.0, "regions": 0.0}
    row = 0
    for pair, taught in enumerate(counts):
        logits = output.matching[pair]
        sums["matching"] -= torch.log_softmax(logits, 0)[int(targets["matched"][pair])].item()
        for place, label in enumerate(targets["word_labels"][pair].tolist()):
            if label >= 0 and taught:
                scores = output.words.weight @ output.words.states[pair, place] + output.words.bias
                sums["words"] -= torch.log_softmax(scores, 0)[label].item()
        for place in range(2):
            if targets["region_is_masked"][pair, place]:
                guess = output.regions.weight @ output.regions.states[pair, place] + output.regions.bias
                if taught:
                    difference = (guess - targets["region_features"][row].float()).abs()
                    error = torch.where(difference < 1, 0.5 * difference**2, difference - 0.5)
                    sums["regions"] += error.mean().item()
                row += 1
    return sums


@pytest.mark.parametrize(
    ("learns", "counts", "expected"),
    [(False, [True, False, True], (3, 3, 2)), (True, [True, True, True], (3, 4, 4))],
    ids=["matched pairs", "all pairs"],
)
def test_losses_are_the_sums_of_a_plain_computation(
    learns: bool, counts: list[bool], expected: tuple[int, ...], targets: Any, make_task: Any
) -> None:
    task = make_task(learn_from_mismatched=learns)
    output = output_of([[0.5, 1.0], [2.0, -1.0], [-0.3, 0.1]], 3, 4, 2)
    losses = {name: value.item() for name, value in task.loss(output, targets).items()}
    assert losses == pytest.approx(plain_losses(output, targets, counts), rel=1e-5)
    assert tuple(int(count) for count in task.loss_counts(targets).values()) == expected


def test_each_loss_has_its_weight(targets: Any, make_task: Any) -> None:
    output = output_of([[0.5, 1.0], [2.0, -1.0], [-0.3, 0.1]], 3, 4, 2)
    plain = make_task().loss(output, targets)
    weighted = make_task(matching_weight=2, word_weight=0.5, region_weight=3).loss(output, targets)
    factors = {name: (weighted[name] / plain[name]).item() for name in plain}
    assert factors == pytest.approx({"matching": 2, "words": 0.5, "regions": 3})


def test_nothing_to_guess_is_no_loss_and_no_nan(targets: Any, make_task: Any) -> None:
    task = make_task()
    none_match = {**targets, "matched": torch.zeros(3, dtype=torch.bool)}
    losses = task.loss(output_of([[0.5, 1.0]] * 3, 3, 4, 2), none_match)
    assert (losses["words"].item(), losses["regions"].item()) == (0, 0)
    assert [int(count) for count in task.loss_counts(none_match).values()] == [3, 0, 0]


def test_the_matching_head_is_the_backbones_own(make_task: Any, backbone: Any) -> None:
    head = make_task().build_head(backbone)
    assert head.matching is backbone.matching_head()
    assert head.words.decoder.out_features == backbone.wordpiece.size
    assert head.regions.decoders[FEATURES].out_features == D


def test_the_heads_of_words_and_regions_travel(make_task: Any, backbone: Any) -> None:
    """Under the names that every pre-training has, tied to what the backbone offers."""
    task = make_task()
    table = torch.nn.Parameter(torch.rand(backbone.wordpiece.size, H))
    backbone.word_table = lambda: table

    head = task.build_head(backbone)
    named = task.named_heads(head)

    assert head.words.decoder.weight is table
    assert {name: part.module for name, part in named.items()} == {"word_head": head.words, "region_head": head.regions}
    assert named["region_head"].meaning == {"times_pooled": False, "features": {"count": D}}


def test_a_backbone_without_word_pieces_is_refused(make_task: Any, without_words: Any) -> None:
    with pytest.raises(ConfigError, match="the backbone does not say what its vocabulary is"):
        make_task().build_head(without_words)


def test_the_core_can_rely_on_the_task(make_task: Any, make_dataset: Any, backbone: Any, data: Any) -> None:
    task = make_task(mask_words=0.5, mask_regions=0.5)
    train = make_dataset("train")
    task.start_training(train, 0)
    regions = RegionFeatureStore(data / "features").read([f"train{index}" for index in range(4)])
    # how many places are decoded depends on what was masked
    batch = check_task(task, backbone, [train[index] for index in range(12)], regions, may_read_values=True)
    assert batch.targets["matched"].any()


def test_training_lowers_every_loss(maker: Any, backbone: Any) -> None:
    task = maker.task
    head = task.build_head(backbone)
    optimizer = torch.optim.Adam([*{*backbone.parameters(), *head.parameters()}], lr=0.03)
    batch = maker.__getitems__([(0, index) for index in range(12)])
    history = []
    for _ in range(40):
        losses = task.loss(head(backbone(batch.encoding)), batch.targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    assert all(history[-1][name] < 0.7 * history[0][name] for name in history[0])


# --- predictions and scores ---


def test_a_prediction_counts_what_was_guessed_right(targets: Any, make_task: Any) -> None:
    task = make_task()
    output = output_of([[0.0, 2.0], [0.0, 1.0], [3.0, 0.0]], 3, 4, 2)
    scores = F.linear(output.words.states, output.words.weight, output.words.bias)
    targets["word_labels"][0, 1] = scores[0, 1].argmax()
    targets["word_labels"][0, 3] = scores[0, 3].argmin()
    batch = Batch(("a", "b", "c"), None, targets)  # type: ignore[arg-type]
    found = [prediction.fields for prediction in task.predict(task.decode(output, batch), batch)]
    assert [field["matched"] for field in found] == [True, False, True]
    assert found[0]["match"] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert (found[0]["masked_words"], found[0]["right_words"]) == (2, 1)
    assert (found[1]["masked_words"], found[1]["right_words"]) == (0, 0), "it does not match"


def tensors_of(value: Any) -> list[torch.Tensor]:
    return [getattr(value, field.name) for field in fields(value)]


def test_neither_states_nor_the_word_table_leave_the_device(targets: Any, make_task: Any) -> None:
    """What crosses grows with the pairs alone; before, it was the last layer and all states, for each batch."""
    task = make_task(learn_from_mismatched=True)
    output = output_of([[0.0, 2.0], [0.0, 1.0], [3.0, 0.0]], 3, 4, 2)

    decoded = task.decode(output, Batch(("a", "b", "c"), None, targets))  # type: ignore[arg-type]

    assert [tensor.shape for tensor in tensors_of(decoded)] == [(3, 2), (3,)]
    kept = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(decoded)}
    assert not kept & {tensor.untyped_storage().data_ptr() for tensor in tensors_of(output.words)}


@torch.inference_mode()
def test_words_are_counted_as_a_decoder_of_all_places_would(maker: Any, backbone: Any) -> None:
    """The scores that evaluation had when it decoded on the CPU, place by place."""
    task, head = maker.task, maker.task.build_head(backbone)
    batch = maker.__getitems__([(0, index) for index in range(12)])
    output = head(backbone(batch.encoding))
    best = F.linear(output.words.states, output.words.weight, output.words.bias).argmax(dim=2)
    labels, counts = batch.targets["word_labels"], batch.targets["matched"]
    labels[::2] = torch.where(labels[::2] >= 0, best[::2], -1)  # every second pair is guessed right

    predictions = task.predict(task.decode(output, batch), batch)

    for row, prediction in enumerate(predictions):
        places = [place for place in range(labels.shape[1]) if labels[row, place] >= 0 and counts[row]]
        assert prediction.fields["masked_words"] == len(places)
        assert prediction.fields["right_words"] == sum(int(best[row, p] == labels[row, p]) for p in places)
    assert sum(prediction.fields["right_words"] for prediction in predictions)


def test_scores_are_shares_with_their_protocol(make_task: Any, make_dataset: Any) -> None:
    from vlrun import Prediction

    val = make_dataset("val")
    rows = [
        Prediction(
            example.id,
            {"match": 0.9 if index % 3 else 0.2, "matched": True, "masked_words": 2, "right_words": index % 2},
        )
        for index, example in enumerate(val)
    ]
    (matching, words) = check_metric(make_task().metrics()[0], val, rows)
    assert (matching.name, matching.value, matching.primary, matching.count) == (
        "matching-accuracy",
        pytest.approx(200 / 3),
        True,
        12,
    )
    assert (words.name, words.value, words.count) == ("masked-word-accuracy", 25.0, 24)
    assert words.standard_error == pytest.approx(100 * np.std([0, 0.5] * 6, ddof=1) / np.sqrt(12)), "12 captions"
    assert matching.protocol["pairs"].startswith("50% with a random other image of the split")
    assert words.protocol["masked"] == "15% of the word pieces of pairs that match"


@pytest.mark.parametrize("given", [{}, {"match": "yes", "matched": True, "masked_words": 1, "right_words": 0}])
def test_predictions_of_another_kind_are_named(given: Any, make_task: Any, make_dataset: Any) -> None:
    from vlrun import Prediction

    val = make_dataset("val")
    with pytest.raises(DataError, match=r"prediction 'val0-0': expected match \(a number\)"):
        PretrainingAccuracy(make_task().config)([Prediction(example.id, given) for example in val], val)


def test_the_demo_masks_more_words(make_task: Any) -> None:
    assert make_task().config.demo_overrides() == {"batch_size": None, "mask_words": 0.3}


def test_it_answers_no_questions(make_task: Any) -> None:
    (problem,) = make_task().check_question(Question(("a dog",), ("image",)))
    assert "pre-training answers no questions" in problem


@pytest.mark.parametrize(("match", "matched", "credit"), [(0.9, True, 1), (0.9, False, 0), (0.1, False, 1)])
def test_a_prediction_is_shown_with_the_caption_and_its_own_image(
    match: float, matched: bool, credit: int, make_task: Any, make_dataset: Any
) -> None:
    from vlrun import Prediction

    example = make_dataset("val")[0]
    fields = {"match": match, "matched": matched, "masked_words": 3, "right_words": 2}
    case = make_task().case(Prediction(example.id, fields), example)
    assert case.truth == {"matched": matched, "image": example.image_ids[0]}
    assert (case.texts, case.image_ids) == ((example.text,), example.image_ids if matched else ())
    assert case.credit == credit
    assert "2 of 3 masked word pieces right" in case.predicted
