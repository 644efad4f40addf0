"""The heads of pre-training: words, regions and topics, under the neutral names by which they travel between runs.

Shapes: P pairs, L tokens, R regions, N of either, H hidden size, V words of the vocabulary, C outputs of a decoder, K
chosen places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from torch import Tensor, equal, nn, zeros

from vlrun.blocks.heads import NORM_EPSILON, init_layers
from vlrun.errors import CheckpointError
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.heads import Adapt, NamedHead

WORD_HEAD, REGION_HEAD, TOPIC_HEAD, ANSWER_HEAD = "word_head", "region_head", "topic_head", "answer_head"
"""The neutral names of ``WordHead``, ``RegionHead``, ``TopicHead`` and ``PooledClassifier`` over a list of answers."""

FEATURES, CLASSES, ATTRIBUTES = "features", "classes", "attributes"
"""The decoders that a ``RegionHead`` may have."""

WORD_DECODER = "decoder.weight"
"""Name within a ``WordHead``. A file without it has a word head that is tied to the word embeddings."""

TIMES_POOLED = "times_pooled"
_STATES = {False: "on region states alone", True: "on their product with the pooled state"}


@dataclass(frozen=True)
class Undecoded:
    """States before their last, wide layer, and that layer: only the places that are wanted need to go through it.

    For a batch of 256 captions the scores of all tokens over BERT's vocabulary would take 600 MB.

    Attributes:
        states: (P, N, H).
        weight, bias: (C, H), (C,) of the last layer.
    """

    states: Tensor
    weight: Tensor
    bias: Tensor

    def at(self, places: Tensor) -> Tensor:
        """The decoded states (K, C) of the K places where ``places`` (P, N) is True, in order."""
        return nn.functional.linear(self.states[places], self.weight, self.bias)

    def everywhere(self) -> Tensor:
        """The decoded states of all places, (P, N, C)."""
        return nn.functional.linear(self.states, self.weight, self.bias)


class Transform(nn.Module):
    """BERT's transform of states before they are decoded: linear, GELU, layer norm."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=NORM_EPSILON)
        init_layers(self, hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """States (P, N, H) -> (P, N, H)."""
        transformed: Tensor = self.layer_norm(nn.functional.gelu(self.dense(states)))
        return transformed


class WordHead(nn.Module):
    """Scores every word piece of the vocabulary, as BERT does: transform, then the word embeddings and an own bias.

    ROSITA's ``text_mlm_head``, LXMERT's and BERT's ``cls.predictions``.
    """

    def __init__(self, hidden_size: int, num_words: int, table: nn.Parameter | None = None) -> None:
        """Makes the layers.

        Args:
            table: word embeddings (V, H) to tie the decoder to, as ``Backbone.word_table`` offers them; None makes a
                table of its own.
        """
        super().__init__()
        if table is not None and table.shape != (num_words, hidden_size):
            raise ValueError(f"word embeddings {tuple(table.shape)} do not fit {num_words} words, {hidden_size} wide")
        self.transform = Transform(hidden_size)
        self.decoder = nn.Linear(hidden_size, num_words, bias=False)
        self.bias = nn.Parameter(zeros(num_words))
        if table is None:
            init_layers(self.decoder, hidden_size)
        else:
            self.decoder.weight = table

    @classmethod
    def of(cls, backbone: Backbone) -> WordHead:
        """The head for the vocabulary of a backbone, tied to its word embeddings if it offers them."""
        assert backbone.wordpiece is not None, "a word head needs the vocabulary of the backbone"
        return cls(backbone.hidden_size, backbone.wordpiece.size, backbone.word_table())

    def forward(self, text: Tensor) -> Undecoded:
        """States of tokens (P, L, H), transformed, to be decoded to V scores where they are wanted."""
        return Undecoded(self.transform(text), self.decoder.weight, self.bias)

    def named(self, vocabulary_hash: str = "") -> NamedHead:
        """The head with its meaning, for ``Task.named_heads`` under ``WORD_HEAD``."""
        return NamedHead(self, words_meaning(len(self.bias), vocabulary_hash), _of_vocabulary(vocabulary_hash))


class RegionHead(nn.Module):
    """Guesses features, detector classes and attributes of regions: one transform, then a linear layer for each.

    ROSITA's ``imgfeat_head``, LXMERT's ``obj_predict_head``.
    """

    def __init__(self, hidden_size: int, outputs: Mapping[str, int], *, times_pooled: bool = False) -> None:
        """Makes the layers.

        Args:
            outputs: number of outputs by ``FEATURES``, ``CLASSES`` and ``ATTRIBUTES``, as far as they are wanted.
            times_pooled: whether transformed states are multiplied by the pooled state before they are decoded, as in
                LXMERT-S.
        """
        super().__init__()
        self.times_pooled = times_pooled
        self.transform = Transform(hidden_size)
        self.decoders = nn.ModuleDict({name: nn.Linear(hidden_size, count) for name, count in outputs.items()})
        init_layers(self.decoders, hidden_size)

    def forward(self, regions: Tensor, pooled: Tensor) -> dict[str, Undecoded]:
        """States of regions (P, R, H), pooled states (P, H) -> by name, what gives C outputs where they are wanted."""
        states = self.transform(regions)
        if self.times_pooled:
            states = states * pooled[:, None]
        return {name: Undecoded(states, layer.weight, layer.bias) for name, layer in self._layers()}

    def named(self, names: Mapping[str, Sequence[str]] = MappingProxyType({})) -> NamedHead:
        """The head with its meaning, for ``Task.named_heads`` under ``REGION_HEAD``.

        Args:
            names: those of ``CLASSES`` and ``ATTRIBUTES``, in the order of their ids, as far as they are known.
        """
        outputs = {name: layer.out_features for name, layer in self._layers()}
        meaning = regions_meaning(outputs, times_pooled=self.times_pooled, names=names)
        return NamedHead(self, meaning, partial(self._adapted, meaning))

    def _adapted(
        self, ours: Mapping[str, Any], tensors: Mapping[str, Tensor], theirs: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tensor], list[str]]:
        """Takes the decoders that both have; those that the file lacks keep their first values.

        Raises:
            CheckpointError: the file's decoders were trained on other states than these.
        """
        if theirs.get(TIMES_POOLED, self.times_pooled) != self.times_pooled:
            raise CheckpointError(
                f"'{REGION_HEAD}' was trained {_STATES[not self.times_pooled]}, this run's works "
                f"{_STATES[self.times_pooled]}"
            )
        held = {name.split(".")[1]: None for name in tensors if name.startswith("decoders.")}
        left = [name for name in held if name not in self.decoders]
        left_parts = tuple(f"decoders.{name}." for name in left)
        lines = [f"{REGION_HEAD}: its decoder of {name} left: this run does not guess them" for name in left]
        adapted = {name: tensor for name, tensor in tensors.items() if not name.startswith(left_parts)}
        for name, layer in self._layers():
            if name not in held:
                adapted |= {f"decoders.{name}.{key}": value for key, value in layer.state_dict().items()}
                lines.append(f"{REGION_HEAD}: its decoder of {name} is not in the file; it starts random")
            elif (before := _hash(theirs, name)) and (now := _hash(ours, name)) and before != now:
                lines.append(
                    f"{REGION_HEAD}: other names of {name} in the file (list {before}) than in this run (list {now}); "
                    "their order is taken to be the same"
                )
        return adapted, lines

    def _layers(self) -> list[tuple[str, nn.Linear]]:
        return [(name, layer) for name, layer in self.decoders.items() if isinstance(layer, nn.Linear)]


class TopicHead(nn.Module):
    """Scores every word of the vocabulary as a topic of text and image, from the pooled state.

    ``cls.seq_relationship_new`` and ``cls.LayerNorm`` of LXMERT-S.
    """

    def __init__(self, hidden_size: int, num_topics: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, num_topics)
        self.layer_norm = nn.LayerNorm(num_topics, eps=NORM_EPSILON)
        init_layers(self, hidden_size)

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled states (P, H) -> scores (P, V), normalised over the V topics."""
        scores: Tensor = self.layer_norm(nn.functional.gelu(self.dense(pooled)))
        return scores

    def named(self, vocabulary_hash: str = "") -> NamedHead:
        """The head with its meaning, for ``Task.named_heads`` under ``TOPIC_HEAD``."""
        meaning = words_meaning(self.dense.out_features, vocabulary_hash)
        return NamedHead(self, meaning, _of_vocabulary(vocabulary_hash))


def renamed(name: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    """A name whose beginning is the first of a pair, with the second in its place; None if no pair fits."""
    for before, after in pairs:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return None


def without_tied_decoder(tensors: Mapping[str, Tensor], word_table: str) -> dict[str, Tensor]:
    """Tensors without the decoder of their word head, where it is the same as the word embeddings of that name."""
    name = f"{WORD_HEAD}.{WORD_DECODER}"
    decoder, table = tensors.get(name), tensors.get(word_table)
    is_tied = decoder is not None and table is not None and equal(decoder, table)
    return {key: tensor for key, tensor in tensors.items() if not (is_tied and key == name)}


def words_meaning(count: int, vocabulary_hash: str | None = "") -> dict[str, Any]:
    """What the outputs of a head over the words of a vocabulary mean."""
    return {"words": count, **({"vocabulary": vocabulary_hash} if vocabulary_hash else {})}


def regions_meaning(
    outputs: Mapping[str, int], *, times_pooled: bool, names: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> dict[str, Any]:
    """What the outputs of a ``RegionHead`` mean: how many of each there are, and which lists if that is known.

    Raises:
        ValueError: there are more or fewer names than outputs.
    """
    meaning: dict[str, Any] = {TIMES_POOLED: times_pooled}
    for name, count in outputs.items():
        listed = names.get(name, ())
        if listed and len(listed) != count:
            raise ValueError(f"{len(listed)} names for {count} {name}")
        meaning[name] = {"count": count}
        if listed:
            meaning[name]["hash"] = sha256("\n".join(listed).encode()).hexdigest()[:16]
    return meaning


def meaning_in_tensors(head: str, tensors: Mapping[str, Tensor], *, times_pooled: bool = False) -> dict[str, Any]:
    """What the shapes of an imported head say of its outputs; nothing where it is none of this module."""
    if head == WORD_HEAD and "bias" in tensors:
        return words_meaning(len(tensors["bias"]))
    if head == TOPIC_HEAD and "dense.bias" in tensors:
        return words_meaning(len(tensors["dense.bias"]))
    if head == REGION_HEAD:
        names = [name for name in (FEATURES, CLASSES, ATTRIBUTES) if f"decoders.{name}.bias" in tensors]
        counts = {name: len(tensors[f"decoders.{name}.bias"]) for name in names}
        return regions_meaning(counts, times_pooled=times_pooled)
    return {}


def _hash(meaning: Mapping[str, Any], name: str) -> str:
    return str(meaning.get(name, {}).get("hash", ""))


def _of_vocabulary(ours: str) -> Adapt:
    """Changes nothing, and refuses a head over the words of another vocabulary."""

    def adapt(tensors: Mapping[str, Tensor], meaning: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], list[str]]:
        theirs = meaning.get("vocabulary")
        if theirs and ours and theirs != ours:
            raise CheckpointError(f"a head over words was trained with vocabulary {theirs}, this run's is {ours}")
        return tensors, []

    return adapt
