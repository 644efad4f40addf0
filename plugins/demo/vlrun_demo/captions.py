"""Captions: sentences that are true of a scene and tell it from most others."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from vlrun_demo.language import counted, noun_phrase, relation_phrase
from vlrun_demo.meaning import Description, referents, true_relations, unique_subsets, with_attributes
from vlrun_demo.scene import Scene, Thing, image_random

_GROUND_WORDS = {"white": "white", "grey": "gray", "sand": "sandy", "sky": "light blue"}


@dataclass(frozen=True)
class Caption:
    """A caption and what it claims: so many things of the scene fit each description."""

    text: str
    claims: tuple[tuple[Description, int], ...]


def captions(scene: Scene, count: int = 5) -> list[Caption]:
    """``count`` distinct captions of ``scene``, always the same ones."""
    rng = image_random(scene.image_id, "captions")
    found: dict[str, Caption] = {}
    while len(found) < count:
        caption = rng.choice((_listing, _listing, _counting, _relating))(scene, rng)
        found.setdefault(caption.text, caption)
    return list(found.values())


def _listing(scene: Scene, rng: random.Random) -> Caption:
    """'a small red ball, two stars and a striped robot'"""
    claims = [_count(scene, _some_attributes(thing, rng)) for thing in rng.sample(scene.things, rng.randint(2, 3))]
    claims = list(dict.fromkeys(claims))
    phrases = [counted(rng, *claim) for claim in claims]
    text = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
    if rng.random() < 0.4:
        text += f" on a {_GROUND_WORDS[scene.background]} background"
    return Caption(text, tuple(claims))


def _counting(scene: Scene, rng: random.Random) -> Caption:
    """'there are three cats in the picture'"""
    attribute = rng.choice(("kind", "kind", "colour"))
    tally = Counter(getattr(thing, attribute) for thing in scene.things)
    value, count = rng.choice(sorted(tally.items()))
    description = with_attributes({attribute: value})
    verb = "is" if count == 1 else "are"
    ending = rng.choice(("", " in the picture", " in this image"))
    return Caption(f"there {verb} {counted(rng, description, count)}{ending}", ((description, count),))


def _relating(scene: Scene, rng: random.Random) -> Caption:
    """'a large pink box next to a blue star'"""
    for thing in rng.sample(scene.things, len(scene.things)):
        relations = list(true_relations(scene, thing, scene.things))
        subsets = [subset for subset in unique_subsets(scene, thing) if subset.kind]
        if relations and subsets:
            relation, subset = rng.choice(relations), subsets[0]
            text = f"{noun_phrase(rng, subset, article='a')} {rng.choice(('', 'is '))}{relation_phrase(rng, relation)}"
            return Caption(text, ((subset, 1), (relation.other, 1)))
    return _counting(scene, rng)


def _some_attributes(thing: Thing, rng: random.Random) -> Description:
    chosen = ["kind", *(name for name in ("colour", "size", "pattern") if rng.random() < 0.5)]
    return with_attributes({name: getattr(thing, name) for name in chosen})


def _count(scene: Scene, description: Description) -> tuple[Description, int]:
    return description, len(referents(scene, description))
