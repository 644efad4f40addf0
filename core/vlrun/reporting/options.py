"""The options of an experiment as one flat mapping, and which of them can change a number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NO_RECIPE = re.compile(
    r"name|data_root|runs_root|seed|demo|demo_pretraining|image_identities"
    r"|built_in_reporters|(published|reporters)(\..*)?"
    r"|backbone\.(weights|vocabulary)|tasks\.\d+\.(label|dataset\.(annotations|features|evaluate|pictures))"
    r"|train\.(micro_batches|evaluate_batch_size|checkpoint_every|keep_checkpoints|log_every|workers|threads"
    r"|distributed_timeout|compile|activation_checkpointing|gradient_norms)|features\..*"
)
"""Where files lie, what is reported, and how fast: no part of a recipe. Runs may differ in the seed of one recipe."""


def flat_options(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested options as one mapping with dotted keys; a list is one value unless it holds mappings, as ``tasks`` does.

    ``{"train.schedule": {"name": "constant"}}`` and ``{"train": {"schedule": {"name": "constant"}}}`` give the same.
    """
    if isinstance(value, Mapping) and value:
        items: Any = value.items()
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        items = enumerate(value)
    else:
        return {prefix: value} if prefix else {}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= flat_options(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def portable_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an experiment, flat, with paths under its data root as they are there: they may lie anywhere."""
    root = f"{config.get('data_root')}/"
    return {
        key: value.removeprefix(root) if isinstance(value, str) else value
        for key, value in flat_options(config).items()
    }


def shown(value: Any) -> str:
    """The value of an option as people read it."""
    if value is None:
        return "(none)"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_recipe(option: str) -> bool:
    """Whether the option with this dotted key is a part of the recipe, so that another value is another experiment."""
    return not _NO_RECIPE.fullmatch(option)
