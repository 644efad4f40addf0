"""Options of zero-shot retrieval, and what the plugin registers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from vlrun_zero_shot.plugin import vlrun_tasks
from vlrun_zero_shot.task import ZeroShotTask


@pytest.mark.parametrize("value", [0, -1, 2.5, "many"])
def test_a_sample_has_at_least_one_text(value: Any, make_config: Any) -> None:
    with pytest.raises(ValidationError, match="check_pairs"):
        make_config(check_pairs=value)


@pytest.mark.parametrize("options", [{"loss": "triple"}, {"negatives": {"name": "random"}}])
def test_options_of_training_are_unknown(options: dict[str, Any], make_config: Any) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        make_config(**options)


def test_protocol_score_and_ties_are_chosen_as_in_retrieval(make_config: Any) -> None:
    config = make_config(protocols=["first-caption"], score="match-logit", ties="pessimistic")
    assert (config.protocols, config.score, config.ties) == (["first-caption"], "match-logit", "pessimistic")


def test_the_demo_looks_at_more_texts_and_keeps_the_protocol(make_config: Any) -> None:
    overrides = make_config(protocols=["first-caption"]).demo_overrides()
    assert overrides["check_pairs"] > 64
    assert overrides.get("protocols", ["first-caption"]) == ["first-caption"]


def test_the_task_fits_the_datasets_of_captions(make_config: Any) -> None:
    (entry,) = vlrun_tasks()
    assert (entry.name, entry.target) == ("zero_shot", "caption")
    assert isinstance(entry.build(make_config()), ZeroShotTask)
