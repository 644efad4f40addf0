"""The losses that the recipes share, each summed over its items. P pairs, V words, D width of region features.

All of them choose their places by index and read no value, so that a GPU never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from vlrun.blocks.decoders import ATTRIBUTES, CLASSES, FEATURES, Undecoded
from vlrun_pretraining.head import PretrainingOutput
from vlrun_pretraining.rosita.transport import transport_distances, transport_term

Targets = Mapping[str, Tensor]


def decoded_at(states: Undecoded, rows: Tensor, places: Tensor) -> Tensor:
    """The decoded states (K, C) of the places (K,) in rows (K,)."""
    flat = states.states.flatten(0, 1).index_select(0, rows * states.states.shape[1] + places)
    return F.linear(flat, states.weight, states.bias)


def matching_loss(outputs: PretrainingOutput, targets: Targets) -> Tensor:
    """Cross entropy, one item per pair."""
    return F.cross_entropy(outputs.matching, targets["matched"].long(), reduction="sum")


def word_loss(outputs: PretrainingOutput, targets: Targets) -> Tensor:
    """Cross entropy over the vocabulary, one item per masked word piece."""
    scores = decoded_at(outputs.words, targets["word_rows"], targets["word_places"])
    return F.cross_entropy(scores, targets["word_labels"], reduction="sum")


def feature_loss(outputs: PretrainingOutput, targets: Targets) -> Tensor:
    """Smooth L1 (beta 1), the mean over the width, one item per hidden region."""
    return feature_errors(outputs, targets).sum()


def feature_errors(outputs: PretrainingOutput, targets: Targets) -> Tensor:
    """The error (M,) of each hidden region."""
    guessed = decoded_at(outputs.regions[FEATURES], targets["region_rows"], targets["region_places"])
    wanted = targets["region_features"].to(guessed.dtype)
    return F.smooth_l1_loss(guessed, wanted, reduction="none").mean(dim=1)


def class_loss(outputs: PretrainingOutput, targets: Targets) -> Tensor:
    """Cross entropy over the detector's classes times its confidence, one item per region to classify."""
    return _weighted(outputs.regions[CLASSES], targets, "class")


def attribute_loss(outputs: PretrainingOutput, targets: Targets) -> Tensor:
    """The same over attributes."""
    return _weighted(outputs.regions[ATTRIBUTES], targets, "attribute")


def answer_loss(outputs: PretrainingOutput, targets: Targets) -> Tensor:
    """Cross entropy over the answers, one item per pair with an answer."""
    return F.cross_entropy(outputs.answers, targets["answers"], reduction="sum", ignore_index=-1)


def topic_loss(outputs: PretrainingOutput, targets: Targets) -> Tensor:
    """Binary cross entropy of each word of the vocabulary, V items per pair.

    Only the words that are topics are listed: log(1 + exp(x)) for all words, less x for those.
    """
    scores = outputs.topics
    places = targets["topic_rows"] * scores.shape[1] + targets["topic_words"]
    return F.softplus(scores).sum() - scores.flatten().index_select(0, places).sum()


def transport_loss(outputs: PretrainingOutput, targets: Targets) -> Tensor:
    """What it costs to carry words to regions where they match, less where they do not; one item per pair."""
    return transport_term(distances_of(outputs), targets["matched"])


def distances_of(outputs: PretrainingOutput) -> Tensor:
    """What it costs to carry the words of each pair to its regions, (P,) float32."""
    states = outputs.states
    return transport_distances(states.text, states.regions, states.text_mask, states.region_mask)


def _weighted(states: Undecoded, targets: Targets, kind: str) -> Tensor:
    scores = decoded_at(states, targets["class_rows"], targets["class_places"])
    items = F.cross_entropy(scores, targets[f"{kind}_labels"], reduction="none")
    return (items * targets[f"{kind}_weights"]).sum()


LOSSES: Mapping[str, Callable[[PretrainingOutput, Targets], Tensor]] = {
    "matching": matching_loss,
    "words": word_loss,
    "features": feature_loss,
    "classes": class_loss,
    "attributes": attribute_loss,
    "answers": answer_loss,
    "topics": topic_loss,
    "transport": transport_loss,
}


def loss_counts(targets: Targets) -> dict[str, Tensor]:
    """How many items each loss is the mean of, for those whose targets are there."""
    counts = {
        **dict.fromkeys(("matching", "transport"), torch.tensor(len(targets["matched"]))),
        "words": torch.tensor(len(targets["word_labels"])),
    }
    for loss, name in (("features", "feature"), ("classes", "class"), ("attributes", "attribute"), ("topics", "topic")):
        if f"{name}_count" in targets:
            counts[loss] = targets[f"{name}_count"]
    if "answers" in targets:
        counts["answers"] = (targets["answers"] >= 0).sum()
    return counts
