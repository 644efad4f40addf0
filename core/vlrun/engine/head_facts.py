"""What is known of the heads in a file of weights: which there are, what their numbers mean, what is tied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from vlrun.blocks.answers import AnswerVocabulary
from vlrun.blocks.decoders import (
    ANSWER_HEAD,
    ATTRIBUTES,
    CLASSES,
    FEATURES,
    REGION_HEAD,
    TIMES_POOLED,
    TOPIC_HEAD,
    WORD_DECODER,
    WORD_HEAD,
    meaning_in_tensors,
)
from vlrun.blocks.transformer_config import TextTransformerConfig
from vlrun.plugins.entries import Entry

KNOWN_HEADS = (WORD_HEAD, REGION_HEAD, TOPIC_HEAD, ANSWER_HEAD)


def head_of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a head, by the names within it."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def head_meanings(
    tensors: Mapping[str, Tensor], vocabulary_hash: str | None, given: Iterable[Mapping[str, Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """What the heads among imported tensors mean: what their shapes say, then what is ``given``, later before earlier.

    An answer head of unknown answers has no entry.
    """
    parts = list(given)
    meanings: dict[str, dict[str, Any]] = {}
    for name in (WORD_HEAD, REGION_HEAD, TOPIC_HEAD):
        if head := head_of(name, tensors):
            meanings[name] = meaning_in_tensors(name, head)
            if vocabulary_hash and "words" in meanings[name]:
                meanings[name]["vocabulary"] = vocabulary_hash
    for part in parts:
        for name, meaning in part.items():
            if part is not parts[0] or head_of(name, tensors):  # the first says what such files have in general
                meanings[name] = {**meanings.get(name, {}), **meaning}
    return meanings


def tie_remarks(tensors: Mapping[str, Tensor], backbone: Entry | None) -> list[str]:
    """A line if the file has a word head whose decoder is not its word embeddings."""
    decoder = tensors.get(f"{WORD_HEAD}.{WORD_DECODER}")
    if decoder is None:
        return []
    config = None if backbone is None else backbone.load_config()
    table = tensors.get(config.word_table) if config and issubclass(config, TextTransformerConfig) else None
    alike = table is not None and table.shape == decoder.shape
    differ = f", by up to {float((decoder - table).abs().max()):.1e}" if alike and table is not None else ""
    return [
        f"{WORD_HEAD}: its decoder is not the word embeddings of the file{differ}; both are kept, and a run that ties "
        "them takes the embeddings"
    ]


def described_head(name: str, tensors: Mapping[str, Tensor], meaning: Mapping[str, Any]) -> str:
    """What a head is, in words: its shapes and what its numbers mean."""
    head = head_of(name, tensors)
    facts = []
    if "words" in meaning:
        facts.append(f"{meaning['words']:,} words" + _of("vocabulary", meaning.get("vocabulary")))
    for part in (FEATURES, CLASSES, ATTRIBUTES):
        if part in meaning:
            facts.append(f"{meaning[part]['count']:,} {part}" + _of("list", meaning[part].get("hash")))
    if meaning.get(TIMES_POOLED):
        facts.append("of states times the pooled one")
    if answers := meaning.get("answers"):
        facts.append(f"{len(answers):,} answers (list {AnswerVocabulary(tuple(answers)).hash})")
    elif name == ANSWER_HEAD:
        facts.append("answers not known")
    if name == WORD_HEAD:
        facts.append("a decoder of its own" if WORD_DECODER in head else "tied to the word embeddings")
    shapes = ", ".join(f"{key} {'x'.join(map(str, tensor.shape))}" for key, tensor in head.items())
    return "; ".join([*facts, shapes])


def _of(kind: str, digest: Any) -> str:
    return f" ({kind} {digest})" if digest else ""
