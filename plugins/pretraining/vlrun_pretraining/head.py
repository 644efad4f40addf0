"""The layers that pre-training puts on a backbone. P pairs, L tokens, R regions, H hidden size, A answers, V words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vlrun import Backbone, BackboneOutput, NamedHead
from vlrun.blocks.answering import answer_head
from vlrun.blocks.answers import AnswerVocabulary
from vlrun.blocks.decoders import (
    ANSWER_HEAD,
    ATTRIBUTES,
    CLASSES,
    FEATURES,
    REGION_HEAD,
    TOPIC_HEAD,
    WORD_HEAD,
    RegionHead,
    TopicHead,
    Undecoded,
    WordHead,
)
from vlrun.blocks.heads import PooledClassifier
from vlrun_pretraining.config import PretrainConfig


@dataclass(frozen=True)
class PretrainingOutput:
    """Raw outputs for P pairs; None where a loss is not learned.

    Attributes:
        matching: (P, 2) logits; class 1 means that text and image match.
        words: of the tokens, decodes to V logits.
        regions: of the regions, by ``features``, ``classes``, ``attributes``.
        answers: (P, A) logits.
        topics: (P, V) logits.
        states: what the backbone gave, where the loss of transport needs it.
    """

    matching: Any = None
    words: Any = None
    regions: Mapping[str, Undecoded] = field(default_factory=dict)
    answers: Any = None
    topics: Any = None
    states: Any = None


class PretrainingHead(nn.Module):
    """Matching with the backbone's own head, which so becomes part of its weights; the others by their neutral names.

    Each decoder sees the states of its own modality, in which the network has mixed the other one.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: PretrainConfig,
        feature_width: int,
        answers: AnswerVocabulary | None = None,
    ) -> None:
        super().__init__()
        assert backbone.wordpiece is not None
        losses, hidden = config.losses, backbone.hidden_size
        sizes = {FEATURES: feature_width, CLASSES: config.num_classes, ATTRIBUTES: config.num_attributes}
        decoders = {name: size for name, size in sizes.items() if name in losses}
        self._vocabulary_hash, self._answers, self._keeps_states = (
            backbone.vocabulary_hash,
            answers,
            "transport" in losses,
        )
        self.matching = backbone.matching_head() if "matching" in losses else None
        self.words = WordHead.of(backbone) if "words" in losses else None
        self.regions = RegionHead(hidden, decoders, times_pooled=config.region_times_pooled) if decoders else None
        self.answers = PooledClassifier(hidden, len(answers)) if answers is not None else None
        self.topics = TopicHead(hidden, backbone.wordpiece.size) if "topics" in losses else None

    def forward(self, output: BackboneOutput) -> PretrainingOutput:
        """States of P pairs -> logits (P, ...) of whole pairs, and what decodes states (P, L, H) and (P, R, H)."""
        pooled = output.pooled
        return PretrainingOutput(
            None if self.matching is None else self.matching(pooled),
            None if self.words is None else self.words(output.text),
            {} if self.regions is None else self.regions(output.regions, pooled),
            None if self.answers is None else self.answers(output),
            None if self.topics is None else self.topics(pooled),
            output if self._keeps_states else None,
        )

    def named(self) -> Mapping[str, NamedHead]:
        """The heads that travel, with their meaning."""
        heads: dict[str, NamedHead] = {}
        if self.words is not None:
            heads[WORD_HEAD] = self.words.named(self._vocabulary_hash)
        if self.regions is not None:
            heads[REGION_HEAD] = self.regions.named()
        if self.topics is not None:
            heads[TOPIC_HEAD] = self.topics.named(self._vocabulary_hash)
        if self.answers is not None and self._answers is not None:
            heads[ANSWER_HEAD] = answer_head(self.answers, self._answers)
        return heads
