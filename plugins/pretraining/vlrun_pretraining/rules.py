"""The masking rules by the name that an experiment gives; a further one needs a line here and one in ``config.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vlrun_pretraining.config import PretrainConfig
from vlrun_pretraining.random_masking import RandomMasking, SpanMasking
from vlrun_pretraining.rosita.masking import KnowledgeMasking
from vlrun_pretraining.rule import MaskingRule

RULES: Mapping[str, Callable[[PretrainConfig], MaskingRule]] = {
    "random": lambda config: RandomMasking(config.masking),
    "spans": lambda config: SpanMasking(config.masking),
    "knowledge": KnowledgeMasking,
}
