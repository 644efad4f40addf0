"""Pre-training as LXMERT does it, without its detector labels and questions (Tan and Bansal 2019, EMNLP, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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
from vlrun.blocks.decoders import REGION_HEAD, WORD_HEAD
from vlrun_pretraining.config import PretrainConfig
from vlrun_pretraining.head import Guesses, PretrainingHead, PretrainingOutput
from vlrun_pretraining.images import OtherImages, images_to_evaluate
from vlrun_pretraining.masking import NO_LABEL, mask_regions, mask_words
from vlrun_pretraining.metric import PretrainingAccuracy


class PretrainTask(Task[Any]):
    """One pair per caption: with its image or, half of the time, with another one; words and regions are masked.

    LXMERT replaces the caption and keeps the image. The pairs that come out are the same: a caption drawn at random,
    and an image drawn at random among the others. Here it is the image that tells whether a pair matches.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self._training: OtherImages | None = None
        self._evaluation: Mapping[str, OtherImages] | None = None
        self._vocabulary_hash = ""

    def start_training(self, dataset: Dataset[Any], seed: int) -> None:
        """Keeps the images that captions may meet in place of their own."""
        self._training = OtherImages(dataset.split, dataset.image_ids())
        self._evaluation = images_to_evaluate(self.config.dataset)  # once, before loader workers need it

    def pairs(self, example: Example[Any], rng: np.random.Generator) -> list[Pair]:
        """The caption with its image, or with another one of its split."""
        image_id = example.image_ids[0]
        if rng.random() < self.config.mismatch:
            image_id = self._images_beside(image_id).other_than(image_id, rng)
        return [Pair(example.text, image_id)]

    def collate(
        self, examples: Sequence[Example[Any]], regions: RegionBatch, encoding: Encoding
    ) -> Mapping[str, Tensor]:
        """matched: (P,) bool."""
        own = [example.image_ids[0] for example in examples]
        return {"matched": torch.tensor([one == other for one, other in zip(own, regions.image_ids, strict=True)])}

    def mask(self, unmasked: Unmasked[Any]) -> tuple[Encoding, Mapping[str, Tensor]]:
        """Masks words and regions; boxes stay, so that the model knows where it has to look.

        word_labels: (P, L), the masked token ids, -1 elsewhere. region_is_masked: (P, R) bool. region_features: (K, D),
        the features of the K masked regions, in order, in the type of the store.
        """
        encoding, wordpiece = unmasked.encoding, self._needed(unmasked.vocabulary)
        token_ids, word_labels = encoding.token_ids.numpy().copy(), np.empty(encoding.token_ids.shape, np.int64)
        is_region = encoding.region_mask.numpy()
        masked: list[np.ndarray] = []
        sources: list[np.ndarray] = []
        for row, rng in enumerate(unmasked.rngs):
            words = mask_words(token_ids[row], wordpiece, self.config.mask_words, rng)
            token_ids[row], word_labels[row] = words
            of_row = mask_regions(is_region[row], self.config.mask_regions, rng)
            masked.append(np.stack([np.full_like(of_row[0], row), of_row[0]]))
            sources.append(of_row[1])
        rows, places = (torch.from_numpy(part) for part in np.concatenate(masked, axis=1))
        source = torch.from_numpy(np.concatenate(sources))
        wanted = encoding.region_features[rows, places]  # (K, D)
        features = encoding.region_features.clone()
        features[rows, places] = torch.where(
            (source == NO_LABEL)[:, None], torch.zeros_like(wanted), encoding.region_features[rows, source]
        )
        region_is_masked = torch.zeros_like(encoding.region_mask)
        region_is_masked[rows, places] = True
        return replace(encoding, token_ids=torch.from_numpy(token_ids), region_features=features), {
            "word_labels": torch.from_numpy(word_labels),
            "region_is_masked": region_is_masked,
            "region_features": wanted,
        }

    def build_head(self, backbone: Backbone) -> nn.Module:
        """The backbone's matching head, and decoders of words and regions.

        Raises:
            ConfigError: the backbone does not say what its vocabulary is.
        """
        self._needed(backbone.wordpiece)
        self._vocabulary_hash = backbone.vocabulary_hash
        width = RegionFeatureStore(self.config.dataset.features).manifest.feature_width
        return PretrainingHead(backbone, width)

    def named_heads(self, head: nn.Module) -> Mapping[str, NamedHead]:
        """The heads of words and regions; that of matching is the backbone's."""
        assert isinstance(head, PretrainingHead)
        return {WORD_HEAD: head.words.named(self._vocabulary_hash), REGION_HEAD: head.regions.named()}

    def loss(self, outputs: PretrainingOutput, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``matching``: cross entropy, one item per pair. ``words``: cross entropy, one per masked word piece.
        ``regions``: smooth L1 (beta 1), the mean over the feature width, one per masked region."""
        words, regions, wanted = self._to_guess(targets)
        guessed = outputs.regions.at(regions)
        error = F.smooth_l1_loss(guessed, wanted.to(guessed.dtype), reduction="none").mean(dim=1)
        config = self.config
        return {
            "matching": config.matching_weight
            * F.cross_entropy(outputs.matching, targets["matched"].long(), reduction="sum"),
            "words": config.word_weight
            * F.cross_entropy(outputs.words.at(words), targets["word_labels"][words], reduction="sum"),
            "regions": config.region_weight * error.sum(),
        }

    def loss_counts(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How many pairs, masked words and masked regions count."""
        words, regions, _ = self._to_guess(targets)
        return {"matching": torch.tensor(len(words)), "words": words.sum(), "regions": regions.sum()}

    def decode(self, outputs: PretrainingOutput, batch: Batch) -> Guesses:
        """Counts the words that are guessed right, so that neither states nor the word table leave the device."""
        places, _, _ = self._to_guess(batch.targets)
        labels = batch.targets["word_labels"][places].to(outputs.matching.device)
        places = places.to(outputs.matching.device)
        right = torch.zeros_like(places)
        right[places] = outputs.words.at(places).argmax(dim=1) == labels
        return Guesses(outputs.matching, right.sum(dim=1))

    def predict(self, outputs: Guesses, batch: Batch) -> list[Prediction]:
        """Fields: ``match``, the probability that caption and image match; ``matched``, whether they do;
        ``masked_words``, how many word pieces had to be guessed, and ``right_words``, how many of these were."""
        words, _, _ = self._to_guess(batch.targets)
        probabilities = outputs.matching.double().softmax(dim=1)[:, 1]
        return [
            Prediction(
                name,
                {
                    "match": float(probabilities[row]),
                    "matched": bool(batch.targets["matched"][row]),
                    "masked_words": int(words[row].sum()),
                    "right_words": int(outputs.right_words[row]),
                },
            )
            for row, name in enumerate(batch.ids)
        ]

    def case(self, prediction: Prediction, example: Example[Any]) -> Case:
        """A caption with its own image; the model may have seen another one, which a prediction does not name."""
        fields = prediction.fields
        matched = bool(fields["matched"])
        views = (View(example.image_ids[0], "" if matched else "the caption's own image; the model saw another"),)
        return Case(
            prediction.id,
            (example.text,),
            example.image_ids if matched else (),
            {"matched": matched, "image": example.image_ids[0]},
            predicted=f"they match with {fields['match']:.0%}; {fields['right_words']} of {fields['masked_words']} "
            "masked word pieces right",
            right="they match" if matched else "they do not match",
            credit=float((fields["match"] > 0.5) == matched),
            views=views,
        )

    def check_question(self, question: Question) -> list[str]:
        """Refuses every question: what is learned here is a start for other tasks."""
        return ["pre-training answers no questions; ask a run that was fine-tuned from its weights"]

    def metrics(self) -> list[Metric]:
        """How often pairs and words are guessed right."""
        return [PretrainingAccuracy(self.config)]

    def _needed(self, vocabulary: Vocabulary | None) -> Vocabulary:
        if vocabulary is None:
            raise ConfigError(
                f"task '{self.config.display_name}' masks word pieces, and the backbone does not say "
                "what its vocabulary is (attribute wordpiece); use another backbone"
            )
        return vocabulary

    def _to_guess(self, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Places (P, L) and (P, R) whose words and regions have to be guessed, and the features of the latter."""
        is_masked = targets["region_is_masked"]
        counts = targets["matched"] | self.config.learn_from_mismatched  # (P,)
        regions = is_masked & counts[:, None]
        wanted = targets["region_features"][regions[is_masked]]
        return (targets["word_labels"] != NO_LABEL) & counts[:, None], regions, wanted

    def _images_beside(self, image_id: str) -> OtherImages:
        """The images of the split that ``image_id`` belongs to; of two, of the one that is evaluated."""
        if self._evaluation is None:
            self._evaluation = images_to_evaluate(self.config.dataset)
        pools = [*self._evaluation.values(), *([self._training] if self._training is not None else [])]
        for images in pools:
            if image_id in images:
                return images
        splits = ", ".join(images.split for images in pools)
        raise DataError(f"image '{image_id}' is in none of the splits {splits}, so no other image can be drawn for it")
