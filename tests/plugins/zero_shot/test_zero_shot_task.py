"""Zero-shot retrieval refuses to train, says what its head means, and stops where that cannot be."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from vlrun import BackboneOutput, Batch, CheckpointError, ConfigError, Encoding, Example
from vlrun_zero_shot.task import ZeroShotTask


def sample(task: ZeroShotTask, won: int, lost: int, tied: int = 0) -> None:
    """Shows ``task`` a sample in which so many texts match their own image better, worse, and as well."""
    matched = np.repeat(np.array([2.0, -1.0, 0.5], np.float32), [won, lost, tied])
    mismatched = np.repeat(np.array([1.0, 3.0, 0.5], np.float32), [won, lost, tied])
    task.check_sample(matched, mismatched)


def complaint(task: ZeroShotTask, won: int, lost: int, tied: int = 0) -> str:
    with pytest.raises(CheckpointError) as caught:
        sample(task, won, lost, tied)
    return str(caught.value)


# --- training ---


@pytest.mark.parametrize(
    "call",
    [
        lambda task: task.start_training([], 0),
        lambda task: task.loss(torch.zeros(1, 2), {}),
        lambda task: task.loss_counts({}),
    ],
    ids=["start_training", "loss", "loss_counts"],
)
def test_it_is_never_trained(call: Callable[[ZeroShotTask], Any], make_task: Any) -> None:
    with pytest.raises(ConfigError, match=r"task 'captions-of-dogs' is never trained: set train\.epochs=0"):
        call(make_task(label="captions-of-dogs"))


def test_it_wants_the_imported_matching_head(make_task: Any) -> None:
    assert make_task().requires_matching_head


# --- scores ---


def test_it_says_which_class_means_match_and_that_nothing_was_trained(make_task: Any) -> None:
    assert dict(make_task(score="match-logit").protocol()) == {
        "matching score": "match-logit",
        "match index": "class 1 of the backbone's matching head",
        "training on the target set": "none in this run",
    }


def test_the_prompt_stands_before_each_text_and_in_each_score(make_task: Any) -> None:
    class Split(list[Any]):
        split = "test"

    task, example = make_task(prompt="a photo of"), Example("7", "two dogs", ("image",))

    assert task.scored_pool(Split([example])).texts == ("a photo of two dogs",)
    assert [pair.text for pair in task.pairs(example, np.random.default_rng(0))] == ["a photo of two dogs"]
    assert task.protocol()["prompt"] == "a photo of"
    assert task.config.demo_overrides()["prompt"] == ""
    assert make_task().scored_pool(Split([example])).texts == ("two dogs",)


def test_class_1_is_a_match(make_task: Any) -> None:
    logits = torch.tensor([[0.5, 2.0], [3.0, 2.5]])
    assert make_task().pair_scores(logits).tolist() == [1.5, -0.5]
    assert make_task(score="match-logit").pair_scores(logits).tolist() == [2.0, 2.5]


def test_an_example_is_its_text_with_its_image(make_task: Any) -> None:
    example = Example("7", "a dog", ("image",))
    (pair,) = make_task().pairs(example, np.random.default_rng(0))
    assert (pair.text, pair.image_id) == ("a dog", "image")
    encoding = Encoding(*(torch.ones(1, 1) for _ in range(5)))
    assert make_task().collate([example], None, encoding) == {}  # type: ignore[arg-type]


def test_the_head_of_the_backbone_is_used_as_it_is(make_task: Any) -> None:
    class Trunk:
        head = torch.nn.Linear(3, 2)

        def matching_head(self) -> torch.nn.Module:
            return self.head

    states = torch.ones(2, 1, 3)
    output = BackboneOutput(states, states, states[:, 0], *(torch.ones(2, 1, dtype=torch.bool) for _ in range(2)))
    task = make_task()
    logits = task.build_head(Trunk())(output)
    assert torch.equal(logits, Trunk.head(output.pooled))
    encoding = Encoding(*(torch.ones(2, 1) for _ in range(5)))
    predictions = task.predict(logits.detach(), Batch(("7", "8"), encoding, {}))
    assert [prediction.id for prediction in predictions] == ["7", "8"]


def test_loader_workers_get_a_copy(make_task: Any) -> None:
    copy = pickle.loads(pickle.dumps(make_task(check_pairs=9)))
    assert copy.sample_size == 9
    assert copy.config == make_task(check_pairs=9).config


# --- the sample ---


@pytest.mark.parametrize(("won", "lost"), [(64, 0), (42, 22), (16, 4), (7, 0), (538, 462)])
def test_a_head_that_tells_right_from_wrong_passes(won: int, lost: int, make_task: Any) -> None:
    sample(make_task(), won, lost)


@pytest.mark.parametrize(("won", "lost"), [(41, 23), (32, 32), (15, 5), (6, 1), (537, 463)])
def test_a_head_that_is_hardly_better_than_chance_is_refused(won: int, lost: int, make_task: Any) -> None:
    message = complaint(make_task(label="flickr"), won, lost)
    assert f"task 'flickr': {won} of {won + lost} sampled texts ({won / (won + lost):.1%})" in message
    assert "no better than chance" in message
    assert "sign test at 1 %" in message
    assert "raise check_pairs, now 64" in message


def test_an_inverted_head_is_recognised(make_task: Any) -> None:
    message = complaint(make_task(), won=3, lost=61)
    assert "3 of 64 sampled texts (4.7%)" in message
    assert "the wrong way round" in message
    assert "class 1 of the matching head is taken to mean a match" in message
    assert "next-sentence head that is class 0" in message
    assert "swap the two rows" in message


def test_a_tie_counts_as_lost(make_task: Any) -> None:
    message = complaint(make_task(), won=41, lost=0, tied=23)
    assert "41 of 64" in message
    sample(make_task(), won=42, lost=0, tied=22)


def test_a_head_that_says_the_same_of_every_pair_is_refused_but_not_called_inverted(make_task: Any) -> None:
    message = complaint(make_task(), won=0, lost=0, tied=64)
    assert "0 of 64 sampled texts (0.0%)" in message
    assert "no better than chance" in message


@pytest.mark.parametrize(("won", "lost"), [(1, 0), (2, 1), (3, 2), (4, 2)])
def test_of_few_texts_a_majority_is_enough(won: int, lost: int, make_task: Any) -> None:
    sample(make_task(), won, lost)


@pytest.mark.parametrize(("won", "lost"), [(0, 1), (1, 1), (2, 2), (3, 3), (0, 6)])
def test_of_few_texts_half_is_not_enough(won: int, lost: int, make_task: Any) -> None:
    message = complaint(make_task(), won, lost)
    assert "a majority; more texts would say more" in message
    assert "the wrong way round" not in message  # so few cannot show it


def test_no_texts_prove_nothing(make_task: Any) -> None:
    sample(make_task(), won=0, lost=0)


def test_random_heads_rarely_pass_and_weak_ones_pass_in_a_larger_sample(make_task: Any) -> None:
    rng = np.random.default_rng(0)

    def passes(share: float, texts: int) -> bool:
        won = int(rng.binomial(texts, share))
        try:
            sample(make_task(), won, texts - won)
        except CheckpointError:
            return False
        return True

    assert sum(passes(0.5, 64) for _ in range(1000)) <= 20  # 1 % are expected
    assert sum(passes(0.9, 64) for _ in range(100)) == 100
    assert sum(passes(0.6, 1000) for _ in range(100)) == 100
