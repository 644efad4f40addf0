"""Pre-training: which pairs are shown, what is hidden of them, and what is learned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlrun import (
    Backbone,
    Batch,
    Case,
    ConfigError,
    DataError,
    Dataset,
    Encoding,
    Example,
    Metric,
    NamedHead,
    Pair,
    Prediction,
    Question,
    RegionBatch,
    RegionFeatureStore,
    Task,
    Unmasked,
    View,
    Vocabulary,
)
from vlrun.blocks.answers import AnswerVocabulary, read_answers
from vlrun_pretraining.config import PretrainConfig
from vlrun_pretraining.dataset import Caption
from vlrun_pretraining.draws import Draws
from vlrun_pretraining.guesses import Guesses, guesses_of, predictions_of
from vlrun_pretraining.head import PretrainingHead, PretrainingOutput
from vlrun_pretraining.hiding import hide_regions, hide_words, region_classes, region_counts, regions_of
from vlrun_pretraining.items import Items, items_to_evaluate, items_to_train
from vlrun_pretraining.losses import LOSSES, loss_counts
from vlrun_pretraining.metric import PretrainingAccuracy
from vlrun_pretraining.nearest import nearest_images
from vlrun_pretraining.rule import SeenPair, ShownPair
from vlrun_pretraining.rules import RULES
from vlrun_pretraining.topics import Topics

REGION_LOSSES = ("features", "classes", "attributes")


class PretrainTask(Task[Any]):
    """One pair per text: with its image or, with some probability, with another one; words and regions are hidden."""

    def __init__(self, config: PretrainConfig) -> None:
        """Reads the lists of answers and of class names, where they are needed.

        Raises:
            DataError: one of them is missing or damaged.
        """
        self.config = config
        self.rule = RULES[config.masking.name](config)
        self.topics = Topics(config) if "topics" in config.losses else None
        self.answers: AnswerVocabulary | None = (
            read_answers(config.answers_path) if "answers" in config.losses else None
        )
        self._limits = {
            name: limit
            for name, limit in (("classes", config.num_classes), ("attributes", config.num_attributes))
            if name in config.losses
        }
        of_topics = self.topics is not None and self.topics.names is not None
        self.reads_classes = bool(self._limits) or of_topics or self.rule.reads_classes
        self._training: Items | None = None
        self._evaluation: Mapping[str, Items] | None = None

    def start_training(self, dataset: Dataset[Any], seed: int) -> None:
        """Keeps the items that texts and images may meet in place of their own."""
        self._training = self._with_nearest(items_to_train(dataset))
        self._items_to_evaluate()  # once, before loader workers need it

    def pairs(self, example: Example[Any], rng: np.random.Generator) -> list[Pair]:
        """The text with its image; or one of them with another item's of the split. Purposes: ``match``, ``other``."""
        image_id, draws, mismatch = example.image_ids[0], Draws(rng), self.config.mismatch
        if draws.uniform("match", 1)[0] >= mismatch.probability:
            return [ShownPair(example.text, image_id, matched=True)]
        items = self._items_with(image_id)
        other = items.other(image_id, draws)
        if mismatch.side == "text":
            return [ShownPair(items.text_of(other), image_id, matched=False)]
        return [ShownPair(example.text, items.image_of(other), matched=False)]

    def collate(
        self, examples: Sequence[Example[Any]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        """Nothing: all targets follow from what is hidden."""
        return {}

    def mask(self, unmasked: Unmasked[Any]) -> tuple[Encoding, Mapping[str, Tensor]]:
        """Hides words and regions of P pairs, and makes the targets, all of them by index.

        matched: (P,) bool. answers: (P,) int64, -1 without one. topic_rows, topic_words: (T,) int64. topic_count:
        scalar. The others: see ``hiding``.
        """
        config, encoding, vocabulary = self.config, unmasked.encoding, self._needed(unmasked.vocabulary)
        pairs = [self._seen(unmasked, row, vocabulary) for row in range(len(unmasked.pairs))]
        draws = [Draws(rng) for rng in unmasked.rngs]
        hidden = [self.rule.hide(seen, own) for seen, own in zip(pairs, draws, strict=True)]
        matched = np.array([seen.pair.matched for seen in pairs])
        counts = matched | config.learn_from_mismatched
        encoding, targets = hide_words(encoding, hidden, counts)
        encoding, of_regions = hide_regions(encoding, hidden, unmasked, counts)
        targets |= {"matched": torch.from_numpy(matched), **of_regions}
        if self._limits:
            all_regions = self.rule.all_regions
            targets |= region_classes(
                encoding, unmasked.regions, of_regions, counts, self._limits, all_regions=all_regions
            )
        targets |= region_counts(encoding, targets, counts, all_regions=self.rule.all_regions)
        if self.answers is not None:
            answers = [self._answer(seen, own) for seen, own in zip(pairs, draws, strict=True)]
            targets["answers"] = torch.tensor(answers)
        if self.topics is not None:
            topics = [self.topics.of(seen) for seen in pairs]
            rows = np.repeat(np.arange(len(topics)), [len(of_pair) for of_pair in topics])
            targets["topic_rows"] = torch.from_numpy(rows)
            targets["topic_words"] = torch.tensor([word for of_pair in topics for word in of_pair], dtype=torch.int64)
            targets["topic_count"] = torch.tensor(len(topics) * vocabulary.size)
        return encoding, targets

    def build_head(self, backbone: Backbone) -> nn.Module:
        """The backbone's matching head, and decoders of what else is learned.

        Raises:
            ConfigError: the backbone does not say what its vocabulary is.
        """
        self._needed(backbone.wordpiece)
        width = RegionFeatureStore(self.config.dataset.feature_store).manifest.feature_width
        return PretrainingHead(backbone, self.config, width, self.answers)

    def named_heads(self, head: nn.Module) -> Mapping[str, NamedHead]:
        """The heads of words, regions, topics and answers, as far as they are there."""
        assert isinstance(head, PretrainingHead)
        return head.named()

    def loss(self, outputs: PretrainingOutput, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of ``losses.LOSSES`` that the experiment names, each times its weight."""
        weight = self.config.loss_weight_of
        return {name: weight(name) * LOSSES[name](outputs, targets) for name in self.config.losses}

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How many pairs, words, regions and so on count; of regions see ``MaskingRule.all_regions``."""
        counts = loss_counts(targets)
        return {name: counts[name] for name in self.config.losses}

    def decode(self, outputs: PretrainingOutput, batch: Batch) -> Guesses:
        """What is guessed, so that neither states nor the word table leave the device."""
        return guesses_of(outputs, batch.targets)

    def predict(self, outputs: Guesses, batch: Batch) -> list[Prediction]:
        """Fields: see ``guesses.predictions_of``."""
        return predictions_of(outputs, batch)

    def case(self, prediction: Prediction, example: Example[Any]) -> Case:
        """A text with its own image; the model may have seen another one, which a prediction does not name."""
        fields = prediction.fields
        matched = bool(fields["matched"])
        views = (View(example.image_ids[0], "" if matched else "its own; the model saw another text or image"),)
        words = fields.get("words", [])
        right = sum(label == guess for label, guess in words)
        said = [f"they match with {fields['match']:.0%}"] if "match" in fields else []
        return Case(
            prediction.id,
            (example.text,),
            example.image_ids if matched else (),
            {"matched": matched, "image": example.image_ids[0]},
            predicted="; ".join([*said, f"{right} of {len(words)} masked word pieces right"]),
            right="they match" if matched else "they do not match",
            credit=float((fields["match"] > 0.5) == matched) if "match" in fields else None,
            views=views,
        )

    def check_question(self, question: Question) -> list[str]:
        """Refuses every question: what is learned here is a start for other tasks."""
        return ["pre-training answers no questions; ask a run that was fine-tuned from its weights"]

    def metrics(self) -> list[Metric]:
        """How well each objective is guessed, and how well by whoever sees nothing."""
        return [PretrainingAccuracy(self.config)]

    def _seen(self, unmasked: Unmasked[Any], row: int, vocabulary: Vocabulary) -> SeenPair:
        example, pair = unmasked.examples[row], unmasked.pairs[row]
        assert isinstance(pair, ShownPair)
        return SeenPair(
            example,
            pair,
            unmasked.encoding.token_ids[row].numpy(),
            regions_of(unmasked.regions, row),
            vocabulary,
            self._items_with(example.image_ids[0]),
        )

    def _answer(self, seen: SeenPair, draws: Draws) -> int:
        """The answer to learn, drawn in proportion to the scores (purpose ``answer``); -1 if there is none.

        As in LXMERT's ``convert_example_to_features``: none for mismatched pairs.
        """
        target = seen.example.target
        scores = target.answers if isinstance(target, Caption) else None
        assert self.answers is not None
        known = [(self.answers.index_of(answer), score) for answer, score in (scores or {}).items()]
        places = [place for place, _ in known if place is not None]
        if not places or not seen.pair.matched:
            return -1
        shares = np.cumsum([score for place, score in known if place is not None])
        if not shares[-1]:
            return -1
        drawn = np.searchsorted(shares, draws.uniform("answer", 1)[0] * shares[-1], side="right")
        return places[min(int(drawn), len(places) - 1)]

    def _needed(self, vocabulary: Vocabulary | None) -> Vocabulary:
        if vocabulary is None:
            raise ConfigError(
                f"task '{self.config.display_name}' masks word pieces, and the backbone does not say "
                "what its vocabulary is (attribute wordpiece); use another backbone"
            )
        return vocabulary

    def _with_nearest(self, items: Items) -> Items:
        if self.config.mismatch.nearest is not None:
            items.nearest = nearest_images(
                self.config.dataset.feature_store, items.image_ids, self.config.mismatch.nearest
            )
        return items

    def _items_to_evaluate(self) -> Mapping[str, Items]:
        if self._evaluation is None:
            found = items_to_evaluate(self.config.dataset)
            self._evaluation = {split: self._with_nearest(items) for split, items in found.items()}
        return self._evaluation

    def _items_with(self, image_id: str) -> Items:
        """The items of the split that an image belongs to; of two, of the one that is evaluated."""
        pools = [*self._items_to_evaluate().values(), *([self._training] if self._training is not None else [])]
        for items in pools:
            if image_id in items:
                return items
        splits = ", ".join(items.split for items in pools)
        raise DataError(f"image '{image_id}' is in none of the splits {splits}, so no other item can be drawn for it")
