"""The scene graph of a text, and how likely its words are hidden with the objects that they say something about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlrun_pretraining.rosita.rates import Rates

Words = tuple[int, ...]
"""Numbers of words of the cleaned text, from 0 on."""


@dataclass(frozen=True)
class Attribute:
    """Words that describe an object, and how often they do: their frequency among all that is said of such objects."""

    object: Words
    words: Words
    frequency: float


@dataclass(frozen=True)
class Relation:
    """What a subject does to an object; and how often it is said of such subjects, and done to such objects."""

    subject: Words
    words: Words
    object: Words
    of_subject: float
    of_object: float


@dataclass(frozen=True)
class SceneGraph:
    """What a text says about which objects. Of an object of several words the first one alone counts."""

    objects: tuple[Words, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    relations: tuple[Relation, ...] = ()

    @property
    def object_words(self) -> NDArray[np.int64]:
        """(J,) the first word of each object."""
        return np.array([words[0] for words in self.objects], np.int64)


def word_chances(graph: SceneGraph, lemmas: Sequence[str], rates: Rates) -> NDArray[np.float32]:
    """How likely each of W words is hidden once one of J objects is drawn: (J, W), of several objects the maximum.

    Objects are told apart by their lemmas, so that of two dogs each hides what is said about the other
    (``load_data_pretrain.py`` 518-549).
    """
    chances = np.zeros((len(graph.objects), len(lemmas)), np.float32)
    places: dict[str, list[int]] = {}
    for place, words in enumerate(graph.objects):
        places.setdefault(lemmas[words[0]], []).append(place)

    def raise_to(centre: Words, words: Words, frequency: float, scale: float) -> None:
        chance = min(scale * frequency, rates.most_by_prior) + rates.least_by_prior
        for place in places.get(lemmas[centre[0]], ()):
            of_object = chances[place]
            for word in words:
                of_object[word] = max(of_object[word], chance)

    for each in graph.attributes:
        raise_to(each.object, each.words, each.frequency, rates.attribute_scale)
    for relation in graph.relations:
        raise_to(relation.subject, relation.words, relation.of_subject, rates.relation_scale)
        raise_to(relation.object, relation.words, relation.of_object, rates.relation_scale)
    return chances
