"""Which task trains when: shares, own epochs, pauses."""

from __future__ import annotations

from collections import Counter

import pytest

from vlrun.config.train import SamplingConfig, StopAndGoConfig
from vlrun.engine.mixing import TaskMix, build_mix, is_active


def mix(name: str, steps: list[int], weights: list[float] | None = None, **options: float) -> TaskMix:
    return build_mix(steps, weights or [1.0] * len(steps), SamplingConfig(name=name, **options), seed=3)


@pytest.mark.parametrize(
    ("name", "weights", "options", "counts"),
    [
        ("proportional", None, {}, (90, 10)),
        ("weights", [1.0, 3.0], {}, (25, 75)),
        ("weights", [1.0, 0.0], {}, (100, 0)),
        ("temperature", None, {"temperature": 2.0}, (75, 25)),  # square roots: 9.49 to 3.16
        ("temperature", None, {"temperature": 1.0}, (90, 10)),
    ],
)
def test_steps_are_shared_out_as_named(
    name: str, weights: list[float] | None, options: dict[str, float], counts: tuple[int, ...]
) -> None:
    shared = mix(name, [90, 10], weights, **options)
    assert shared.counts == counts
    assert Counter(shared.order(0)) == {task: count for task, count in enumerate(counts) if count}


def test_no_task_is_left_out() -> None:
    assert min(mix("temperature", [1000, 1, 1], temperature=1.0).counts) == 1


def test_the_order_derives_from_seed_and_epoch() -> None:
    first, again, other = mix("proportional", [9, 9]), mix("proportional", [9, 9]), mix("proportional", [9, 9])
    assert first.order(1) == again.order(1)
    assert first.order(0) != other.order(1)


def test_every_task_counts_its_own_epochs() -> None:
    shared = mix("weights", [6, 2], [1.0, 1.0])
    planned = [step for epoch in range(3) for step in shared.steps(epoch, [[True, True]] * (epoch + 1))]
    assert [step.position for step in planned] == list(range(24))
    own = [(step.epoch, step.step) for step in planned if step.task_index == 1]
    assert own == [divmod(number, 2) for number in range(12)]  # six epochs of its own in three joint ones


def test_a_paused_task_goes_on_where_it_stopped() -> None:
    shared = mix("proportional", [3, 3])
    active = [[True, True], [True, False], [True, True]]
    planned = [step for epoch in range(3) for step in shared.steps(epoch, active)]
    assert [(step.epoch, step.step) for step in planned if step.task_index == 1] == [divmod(n, 3) for n in range(6)]
    assert len([step for step in planned if 6 <= step.position < 12]) == 3
    assert max(step.position for step in planned) < 18


@pytest.mark.parametrize(
    ("merits", "expected"),
    [
        ([], True),
        ([50.0, 60.0, 60.05], True),
        ([50.0, 60.0, 60.05, 60.06], False),
        ([60.0, 59.0, 59.0], False),
        ([60.0, 60.0, 60.0, 59.8], False),
        ([60.0, 60.0, 60.0, 59.4], True),
        ([60.0, 60.0, 60.0, 59.4, 59.4, 59.4], False),
    ],
)
def test_a_task_pauses_without_gain_and_goes_on_when_it_falls_back(merits: list[float], expected: bool) -> None:
    assert is_active(merits, StopAndGoConfig(patience=2, min_gain=0.1, fall_back=0.5)) is expected
    assert is_active(merits, None)
