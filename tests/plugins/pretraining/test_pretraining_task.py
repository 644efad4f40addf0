"""Pairs, losses and predictions of pre-training, by hand on small cases."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vlrun import BackboneOutput, Batch, ConfigError, DataError, Encoding, Prediction, Question, RegionFeatureStore
from vlrun.blocks.decoders import Undecoded
from vlrun.data.loading import BatchMaker
from vlrun.interfaces.tensors import on_cpu
from vlrun.testing import check_metric, check_task
from vlrun_pretraining.head import PretrainingOutput
from vlrun_pretraining.metric import PretrainingAccuracy

V, D, H = 15, 6, 8
HALF = {"words": 0.5, "regions": 0.5}


# --- targets and losses ---


ALL = ["matching", "words", "features", "classes", "attributes"]
MASKS = torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 2, dtype=torch.bool)


@pytest.fixture
def maker(make_task: Any, make_dataset: Any, backbone: Any, data: Any) -> Any:
    """A loader's batch maker of the training split."""
    task, train = make_task(masking=HALF, losses=ALL), make_dataset("train")
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


def output_of(num_pairs: int = 3, length: int = 4, num_regions: int = 2) -> PretrainingOutput:
    torch.manual_seed(1)
    words = Undecoded(torch.randn(num_pairs, length, H), torch.randn(V, H), torch.randn(V))
    states = torch.randn(num_pairs, num_regions, H)
    regions = {
        name: Undecoded(states, torch.randn(size, H), torch.randn(size))
        for name, size in {"features": D, "classes": 5, "attributes": 4}.items()
    }
    topics = torch.randn(num_pairs, V)
    return PretrainingOutput(torch.randn(num_pairs, 2), words, regions, torch.randn(num_pairs, 4), topics)


@pytest.fixture
def targets() -> dict[str, torch.Tensor]:
    """Three pairs, the second of which does not match; the last has no answer."""
    return {
        "matched": torch.tensor([True, False, True]),
        "word_rows": torch.tensor([0, 0, 2]),
        "word_places": torch.tensor([1, 3, 2]),
        "word_labels": torch.tensor([7, 9, 6]),
        "region_rows": torch.tensor([0, 2]),
        "region_places": torch.tensor([0, 1]),
        "region_features": torch.linspace(-3, 3, 2 * D).view(2, D).half(),
        "feature_count": torch.tensor(0.15 * 4),
        "class_rows": torch.tensor([0, 0, 2, 2]),
        "class_places": torch.tensor([0, 1, 0, 1]),
        "class_is_hidden": torch.tensor([True, False, False, True]),
        "class_labels": torch.tensor([4, 0, 2, 2]),
        "attribute_labels": torch.tensor([3, 0, 0, 1]),
        "class_weights": torch.tensor([0.9, 0.0, 0.4, 0.7]),
        "attribute_weights": torch.tensor([0.1, 0.3, 0.4, 0.2]),
        "class_count": torch.tensor(0.15 * 4),
        "attribute_count": torch.tensor(0.15 * 4),
        "answers": torch.tensor([3, 0, -1]),
        "topic_rows": torch.tensor([0, 0, 2]),
        "topic_words": torch.tensor([6, 8, 14]),
        "topic_count": torch.tensor(3 * V),
    }


def at(part: Undecoded, row: int, place: int) -> torch.Tensor:
    return part.weight @ part.states[row, place] + part.bias


def plain_losses(output: PretrainingOutput, targets: Any) -> dict[str, float]:
    """The same numbers, pair by pair and place by place."""
    sums = dict.fromkeys([*ALL, "answers", "topics"], 0.0)
    for pair, matched in enumerate(targets["matched"]):
        sums["matching"] -= torch.log_softmax(output.matching[pair], 0)[int(matched)].item()
        if (answer := int(targets["answers"][pair])) >= 0:
            sums["answers"] -= torch.log_softmax(output.answers[pair], 0)[answer].item()
        wanted = torch.zeros(V)
        wanted[targets["topic_words"][targets["topic_rows"] == pair]] = 1
        share = torch.sigmoid(output.topics[pair])
        sums["topics"] -= (wanted * share.log() + (1 - wanted) * (1 - share).log()).sum().item()
    for row, place, label in zip(*(targets[f"word_{name}"] for name in ("rows", "places", "labels")), strict=True):
        sums["words"] -= torch.log_softmax(at(output.words, row, place), 0)[label].item()
    for entry, (row, place) in enumerate(zip(targets["region_rows"], targets["region_places"], strict=True)):
        guess = at(output.regions["features"], row, place)
        difference = (guess - targets["region_features"][entry].float()).abs()
        sums["features"] += torch.where(difference < 1, 0.5 * difference**2, difference - 0.5).mean().item()
    for entry, (row, place) in enumerate(zip(targets["class_rows"], targets["class_places"], strict=True)):
        for name, kind in (("classes", "class"), ("attributes", "attribute")):
            scores = torch.log_softmax(at(output.regions[name], row, place), 0)
            weight = targets[f"{kind}_weights"][entry]
            sums[name] -= (weight * scores[targets[f"{kind}_labels"][entry]]).item()
    return sums


def test_losses_are_the_sums_of_a_plain_computation(targets: Any, make_task: Any, answers: Any) -> None:
    task = make_task(losses=[*ALL, "answers", "topics"], topics="sentence", answers=answers)
    output = output_of()
    losses = {name: value.item() for name, value in task.loss(output, targets).items()}
    assert losses == pytest.approx(plain_losses(output, targets), rel=1e-5)
    counts = {name: float(count) for name, count in task.loss_counts(targets).items()}
    regions = dict.fromkeys(("features", "classes", "attributes"), pytest.approx(0.6))
    assert counts == {"matching": 3, "words": 3, **regions, "answers": 2, "topics": 3 * V}


def test_losses_may_weigh_more_than_others(targets: Any, make_task: Any) -> None:
    output, states = output_of(), BackboneOutput(torch.randn(3, 4, H), torch.randn(3, 2, H), torch.randn(3, H), *MASKS)
    output = replace(output, states=states)
    losses = [*ALL, "transport"]
    plain = make_task(losses=losses).loss(output, targets)
    heavy = make_task(losses=losses, loss_weights={"matching": 8.0, "transport": 0.4}).loss(output, targets)
    assert {name: (heavy[name] / plain[name]).item() for name in plain} == pytest.approx(
        {**dict.fromkeys(ALL, 1.0), "matching": 8.0, "transport": 4.0}
    )


def test_only_the_losses_that_are_named_are_learned(make_task: Any, targets: Any, backbone: Any) -> None:
    task = make_task(losses=["words", "classes"])
    assert list(task.loss(output_of(), targets)) == list(task.loss_counts(targets)) == ["words", "classes"]
    head = task.build_head(backbone)
    assert set(task.named_heads(head)) == {"word_head", "region_head"}
    assert set(head.regions.decoders) == {"classes"}
    assert head.matching is None


def test_nothing_to_guess_is_no_loss_and_no_nan(make_task: Any) -> None:
    empty = torch.empty(0, dtype=torch.int64)
    nothing = {
        **dict.fromkeys(("word_rows", "word_places", "word_labels", "region_rows", "region_places"), empty),
        "matched": torch.zeros(3, dtype=torch.bool),
        "region_features": torch.empty(0, D).half(),
        "feature_count": torch.tensor(0.0),
    }
    task = make_task()
    losses = task.loss(output_of(), nothing)
    assert (losses["words"].item(), losses["features"].item()) == (0, 0)
    assert [int(count) for count in task.loss_counts(nothing).values()] == [3, 0, 0]


@pytest.mark.parametrize("learns", [False, True])
def test_words_and_regions_of_mismatched_pairs_are_guessed_if_wanted(
    learns: bool, make_task: Any, make_dataset: Any, backbone: Any, data: Any
) -> None:
    task = make_task(learn_from_mismatched=learns, losses=ALL, masking=HALF)
    train = make_dataset("train")
    task.start_training(train, 0)
    store = RegionFeatureStore(data / "features")
    maker = BatchMaker(task, train, store, backbone.pair_encoder(20), 3, vocabulary=backbone.wordpiece)
    targets = maker.made([(0, index) for index in range(12)]).targets
    mismatched = set(torch.nonzero(~targets["matched"]).flatten().tolist())
    assert mismatched
    for name in ("word_rows", "region_rows", "class_rows"):
        assert bool(mismatched & set(targets[name].tolist())) == learns


def test_heads_have_the_sizes_of_what_is_guessed(make_task: Any, backbone: Any) -> None:
    head = make_task(losses=ALL).build_head(backbone)
    assert head.matching is backbone.matching_head()
    assert head.words.decoder.out_features == backbone.wordpiece.size
    assert {name: layer.out_features for name, layer in head.regions.decoders.items()} == {
        "features": D,
        "classes": 5,
        "attributes": 4,
    }


def test_a_backbone_without_word_pieces_is_refused(make_task: Any, without_words: Any) -> None:
    with pytest.raises(ConfigError, match="the backbone does not say what its vocabulary is"):
        make_task().build_head(without_words)


def test_the_core_can_rely_on_the_task(make_task: Any, make_dataset: Any, backbone: Any, data: Any) -> None:
    task = make_task(masking=HALF, losses=ALL)
    train = make_dataset("train")
    task.start_training(train, 0)
    regions = RegionFeatureStore(data / "features").read_with_classes([f"train{index}" for index in range(4)])
    batch = check_task(task, backbone, [train[index] for index in range(12)], regions)
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


def test_a_prediction_holds_what_was_right_and_what_was_guessed(targets: Any, make_task: Any, answers: Any) -> None:
    task = make_task(losses=[*ALL, "answers", "topics"], topics="sentence", answers=answers)
    output = output_of()
    targets["word_labels"][0] = at(output.words, 0, 1).argmax()
    targets["word_labels"][1] = at(output.words, 0, 3).argmin()
    encoding = Encoding(
        torch.ones(3, 4, dtype=torch.int64),
        torch.ones(3, 4, dtype=torch.bool),
        torch.ones(3, 2, D).half(),
        torch.zeros(3, 2, 4),
        torch.ones(3, 2, dtype=torch.bool),
    )
    batch = Batch(("a", "b", "c"), encoding, targets)
    first, second, third = (each.fields for each in task.predict(on_cpu(task.decode(output, batch)), batch))
    assert [first["matched"], second["matched"], third["matched"]] == [True, False, True]
    assert first["match"] == pytest.approx(output.matching[0].softmax(0)[1].item())
    assert [label == guess for label, guess in first["words"]] == [True, False]
    assert (second["words"], second["classes"], second["features"]) == ([], [], [0, 0.0, 0.0])
    assert first["classes"] == [[4, at(output.regions["classes"], 0, 0).argmax().item()]], "of hidden regions alone"
    assert third["attributes"] == [[1, at(output.regions["attributes"], 2, 1).argmax().item()]]
    assert [third["answer"], first["answer"][0]] == [None, 3]
    assert (first["topics"][0], len(first["topics"][1]), second["topics"]) == ([6, 8], 2, [[], []])
    assert first["topics"][1] == output.topics[0].topk(2).indices.tolist()
    count, error, of_mean = first["features"]
    wanted = targets["region_features"][0].float()
    assert (count, error) == (1, pytest.approx(F.smooth_l1_loss(at(output.regions["features"], 0, 0), wanted).item()))
    assert of_mean == pytest.approx(F.smooth_l1_loss(torch.ones(D), wanted).item()), "the shown region is all ones"


def test_neither_states_nor_the_word_table_leave_the_device(targets: Any, make_task: Any) -> None:
    output = output_of()
    decoded = make_task().decode(output, Batch(("a", "b", "c"), None, targets))  # type: ignore[arg-type]
    kept = [getattr(decoded, field.name) for field in fields(decoded)]
    held = {tensor.untyped_storage().data_ptr() for tensor in kept if tensor is not None}
    assert not held & {tensor.untyped_storage().data_ptr() for tensor in vars(output.words).values()}


def test_scores_are_shares_beside_those_of_trivial_guesses(make_task: Any, make_dataset: Any) -> None:
    val = make_dataset("val")
    rows = [
        Prediction(
            example.id,
            {
                "match": 0.9 if index % 3 else 0.2,
                "matched": True,
                "words": [[7, 7], [index % 4, 9]] if index % 2 else [],
                "features": [1, 0.5, 2.0],
                "topics": [[1, 2], [2, 5]],
            },
        )
        for index, example in enumerate(val)
    ]
    scores = {score.name: score for score in check_metric(make_task().metrics()[0], val, rows)}
    values = {name: score.value for name, score in scores.items()}
    assert values == pytest.approx(
        {
            "matching-accuracy": 200 / 3,
            "trivial-matching-accuracy": 100,
            "masked-word-accuracy": 50,
            "trivial-masked-word-accuracy": 50,
            "region-feature-error": 0.5,
            "trivial-region-feature-error": 2,
            "topic-precision": 50,
            "trivial-topic-precision": 100,
        }
    )
    assert [name for name, score in scores.items() if score.primary] == ["matching-accuracy"]
    assert not scores["region-feature-error"].higher_is_better
    assert scores["masked-word-accuracy"].count == 12
    protocol = scores["masked-word-accuracy"].protocol
    assert protocol["pairs"] == "50% with another item's image (its image is another, any)"
    assert protocol["masked"] == "15% of the word pieces of pairs that match (random)"


def test_a_protocol_names_what_is_our_choice(make_task: Any, make_dataset: Any) -> None:
    val = make_dataset("val")
    rows = [Prediction(example.id, {"matched": True, "words": [[7, 7]], "features": [1, 0.5, 2.0]}) for example in val]

    def protocols(**options: Any) -> list[Any]:
        return [score.protocol for score in make_task(**options).metrics()[0](rows, val)]

    assert not any("our choice" in protocol for protocol in protocols())
    options = {
        "losses": ["words", "features", "topics"],
        "topics": "sentence",
        "masking": {"name": "spans", "shuffled_images": 0.25},
        "mismatch": {"probability": 0.5, "nearest": 9},
        "own_choices": ["batch and rate"],
    }
    chosen = "batch and rate; words in spans; regions that change places in 25% of the images; sentence topics"
    found = protocols(**options)
    assert {protocol["our choice"] for protocol in found} == {f"{chosen}; mismatches among the 9 most similar images"}
    assert found[-1]["masked"] == (
        "15% of the regions of pairs that match (spans); in 25% of the images as many others change places"
    )
    matched = protocols(**options | {"mismatch": {"probability": 0.0, "nearest": 9}})
    assert (matched[0]["pairs"], matched[0]["our choice"]) == ("all match", chosen)


def test_what_was_not_asked_has_no_score(make_task: Any, make_dataset: Any) -> None:
    val = make_dataset("val")
    rows = [Prediction(example.id, {"matched": False, "match": 0.1, "words": [], "answer": None}) for example in val]
    names = [score.name for score in make_task().metrics()[0](rows, val)]
    assert names == ["matching-accuracy", "trivial-matching-accuracy"]
    nothing = [Prediction(example.id, {"matched": False, "words": []}) for example in val]
    with pytest.raises(DataError, match="split 'val': nothing had to be guessed in any of its 12 pairs"):
        make_task().metrics()[0](nothing, val)


@pytest.mark.parametrize(
    "given", [{}, {"match": "yes", "matched": True}, {"matched": True, "words": [3]}, {"matched": True, "features": []}]
)
def test_predictions_of_another_kind_are_named(given: Any, make_task: Any, make_dataset: Any) -> None:
    val = make_dataset("val")
    with pytest.raises(DataError, match=r"prediction 'val0-0': expected matched \(true or false\)"):
        PretrainingAccuracy(make_task().config)([Prediction(example.id, given) for example in val], val)


def test_the_demo_masks_more_words(make_task: Any) -> None:
    assert make_task().config.demo_overrides() == {
        "batch_size": None,
        "masking.words": 0.3,
        "answers": None,
        "class_names": None,
        "word_vectors": None,
    }


def test_the_demo_moves_the_head_of_a_sentences_topics_faster(make_task: Any) -> None:
    config = make_task().config
    groups = [
        config.model_copy(update={"losses": losses, "topics": topics}).demo_groups()
        for losses, topics in ((["topics"], "phrase"), (["topics"], "sentence"), (["words"], "sentence"))
    ]
    assert groups == [[], [{"match": "heads.*.topics.*", "rate": 10.0}], []]


def test_it_answers_no_questions(make_task: Any) -> None:
    (problem,) = make_task().check_question(Question(("a dog",), ("image",)))
    assert "pre-training answers no questions" in problem


@pytest.mark.parametrize(("match", "matched", "credit"), [(0.9, True, 1), (0.9, False, 0), (0.1, False, 1)])
def test_a_prediction_is_shown_with_the_caption_and_its_own_image(
    match: float, matched: bool, credit: int, make_task: Any, make_dataset: Any
) -> None:
    example = make_dataset("val")[0]
    fields = {"match": match, "matched": matched, "words": [[1, 1], [2, 2], [3, 4]]}
    case = make_task().case(Prediction(example.id, fields), example)
    assert case.truth == {"matched": matched, "image": example.image_ids[0]}
    assert (case.texts, case.image_ids) == ((example.text,), example.image_ids if matched else ())
    assert case.credit == credit
    assert "2 of 3 masked word pieces right" in case.predicted
