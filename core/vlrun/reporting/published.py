"""Published numbers beside ours, and why they may not be compared.

An experiment file declares with its published numbers which protocol and recipe they hold for. A run that differs in
any of it, or of which that is not known, is shown with the reasons instead of a difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import ResultRow
from vlrun.reporting.options import flat_options, portable_options, shown

DEMO_REASON = "generated demo data, a tiny model and a short schedule"
UNDECLARED = "the experiment does not say which recipe the published number holds for (published.recipe)"


def result_row(
    config: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    task: str,
    split: str,
    score: Score,
    differences: Sequence[str] = (),
) -> ResultRow:
    """A score beside the published number that the experiment declares for it, if there is one.

    Args:
        config: the resolved options of the run.
        data: what the run's ``data.json`` says about its data and weights; None if there is no run.
        differences: in what the score was computed otherwise than the run's own.
    """
    published = config.get("published")
    published = published if isinstance(published, Mapping) else {}
    for result in filter(_is_mapping, published.get("results") or []):
        if (result.get("task"), result.get("split"), result.get("name")) == (task, split, score.name):
            reasons = [*_reasons(config, data, published, result, score), *differences]
            source = str(published.get("source", ""))
            return ResultRow(task, split, score, float(result["value"]), source, tuple(dict.fromkeys(reasons)))
    return ResultRow(task, split, score)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _reasons(
    config: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    published: Mapping[str, Any],
    result: Mapping[str, Any],
    score: Score,
) -> Iterator[str]:
    if config.get("demo"):
        yield DEMO_REASON
        return
    recipe = flat_options(published.get("recipe") or {})
    if not recipe:
        yield UNDECLARED
        return
    options = portable_options(config)
    for option, wanted in recipe.items():
        if options.get(option) != wanted:
            yield f"{option} {shown(options.get(option))} instead of {shown(wanted)}"
    if data is not None:
        yield from _other_weights(data, published.get("weights"))
        yield from _other_data(data.get(str(result["task"])) or {}, published)
    wanted = result.get("examples")
    if wanted is not None and score.count != wanted:
        yield f"scored on {score.count:,} instead of {wanted:,} examples"
    for key, value in {**(published.get("protocol") or {}), **(result.get("protocol") or {})}.items():
        if score.protocol.get(key) != value:
            yield f"{key.replace('_', ' ')} {shown(score.protocol.get(key))} instead of {shown(value)}"


def _other_weights(data: Mapping[str, Any], formats: Sequence[str] | None) -> Iterator[str]:
    """Compares the layout that the weights were imported from with those that the published number was made with."""
    if formats:
        weights = data.get("weights")
        made = "random weights" if not weights else f"weights of {_named(weights.get('format'), 'an unknown layout')}"
        if not weights or weights.get("format") not in formats:
            yield f"{made} instead of those of {' or '.join(formats)}"


def _other_data(data: Mapping[str, Any], published: Mapping[str, Any]) -> Iterator[str]:
    """Compares the number of training examples, and what made the features."""
    wanted = published.get("training_examples")
    trained = sum(part.get("examples", 0) for part in data.get("train") or [])
    if wanted is not None and trained != wanted:
        yield f"trained on {f'{trained:,}' if trained else 'an unknown number'} instead of {wanted:,} examples"
    extractors = published.get("features")
    made = (data.get("features") or {}).get("extractor") or ""
    if extractors and made.partition(":")[0] not in extractors:
        yield f"features of {_named(made, 'an unknown extractor')} instead of {' or '.join(extractors)}"


def _named(name: Any, unknown: str) -> str:
    return str(name) if name else unknown
