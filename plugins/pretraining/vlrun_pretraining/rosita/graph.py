"""The scene graph of a text, and how likely its words are hidden with the objects that they say something about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlrun_pretraining.rosita.rates import Rates

Words = tuple[int, ...]
"""Numbers of words of the cleaned text, from 0 on."""


@dataclass(frozen=True)
class SceneGraph:
    """What a text says about which objects. Of an object of several words the first one alone counts.

    Attributes:
        objects: words of each object.
        attributes: words of the object, and those that describe it.
        relations: words of the subject, of the relation and of the object.
    """

    objects: tuple[Words, ...] = ()
    attributes: tuple[tuple[Words, Words], ...] = ()
    relations: tuple[tuple[Words, Words, Words], ...] = ()

    @property
    def object_words(self) -> NDArray[np.int64]:
        """(J,) the first word of each object."""
        return np.array([words[0] for words in self.objects], np.int64)


@dataclass(frozen=True)
class Priors:
    """How often a phrase goes with an object: lemma of the object -> lemmas of the phrase -> relative frequency.

    Phrases of relations have the words of the other object, too: ``ride horse`` of ``man``, ``man ride`` of ``horse``.
    """

    attributes: Mapping[str, Mapping[str, float]]
    relations: Mapping[str, Mapping[str, float]]


def word_chances(graph: SceneGraph, lemmas: Sequence[str], priors: Priors, rates: Rates) -> NDArray[np.float32]:
    """How likely each of W words is hidden once one of J objects is drawn: (J, W), of several objects the maximum.

    Objects are told apart by their lemmas, so that of two dogs each hides what is said about the other. A phrase
    without prior counts as one that was never seen; the original stops (``load_data_pretrain.py`` 518-549).
    """
    chances = np.zeros((len(graph.objects), len(lemmas)), np.float32)
    names = [lemmas[words[0]] for words in graph.objects]

    def raise_to(centre: str, words: Words, frequency: float, scale: float) -> None:
        chance = min(scale * frequency, rates.most_by_prior) + rates.least_by_prior
        for place, name in enumerate(names):
            if name == centre:
                chances[place, list(words)] = np.maximum(chances[place, list(words)], chance)

    def phrase(*words: Words) -> str:
        return " ".join(lemmas[word] for part in words for word in part)

    for of_object, words in graph.attributes:
        centre = lemmas[of_object[0]]
        raise_to(centre, words, priors.attributes.get(centre, {}).get(phrase(words), 0.0), rates.attribute_scale)
    for subject, words, of_object in graph.relations:
        for end, said in ((subject, phrase(words, of_object)), (of_object, phrase(subject, words))):
            centre = lemmas[end[0]]
            raise_to(centre, words, priors.relations.get(centre, {}).get(said, 0.0), rates.relation_scale)
    return chances
