"""The words of this world: synonyms, noun phrases, places and relations.

Spelling is American, as in the annotations that this world imitates.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from vlrun_demo.language.descriptions import Description, Relation

NOUNS = {
    "robot": ("robot", "android", "machine"),
    "ghost": ("ghost", "spook"),
    "cat": ("cat", "kitty"),
    "ball": ("ball", "circle", "sphere"),
    "box": ("box", "square", "cube"),
    "triangle": ("triangle", "pyramid"),
    "star": ("star",),
    "ring": ("ring", "hoop", "donut"),
    "heart": ("heart",),
}
ANY_NOUN = ("one", "thing", "object")
COLOUR_WORDS = {
    "red": ("red",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "black": ("black", "dark"),
}
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium sized"),
    "large": ("big", "large", "huge"),
}
PATTERN_WORDS = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checkered", "checked"),
}
PATTERN_ENDINGS = {
    "plain": ("without a pattern",),
    "striped": ("with stripes",),
    "dotted": ("with dots", "with spots"),
    "checked": ("with checks",),
}
PLACE_BEGINNINGS = {
    "left": ("left", "leftmost", "far left"),
    "right": ("right", "rightmost", "far right"),
    "top": ("top", "upper", "topmost"),
    "bottom": ("bottom", "lower", "lowest"),
    "top left": ("top left", "upper left"),
    "top right": ("top right", "upper right"),
    "bottom left": ("bottom left", "lower left"),
    "bottom right": ("bottom right", "lower right"),
    "middle": ("middle", "center"),
}
PLACE_ENDINGS = {
    "left": ("on the left", "on left", "left side", "to the far left"),
    "right": ("on the right", "on right", "right side", "to the far right"),
    "top": ("at the top", "on top", "up top"),
    "bottom": ("at the bottom", "on bottom", "down low"),
    "top left": ("top left", "in the top left corner", "in upper left"),
    "top right": ("top right", "in the top right corner", "in upper right"),
    "bottom left": ("bottom left", "in the bottom left corner", "in lower left"),
    "bottom right": ("bottom right", "in the bottom right corner", "in lower right"),
    "middle": ("in the middle", "in center", "middle"),
}
RELATION_WORDS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "higher than"),
    "below": ("below", "under"),
    "next to": ("next to", "near", "beside", "close to"),
}
ANSWER_WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "kind": NOUNS,
    "colour": COLOUR_WORDS,
    "size": SIZE_WORDS,
    "pattern": PATTERN_WORDS,
}
"""What an attribute can be called in an answer: the most usual word first."""
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_NOT_A_WORD = re.compile(r"[^\w\s]|_")


def noun_phrase(rng: random.Random, description: Description, *, article: str = "", plural: bool = False) -> str:
    """Words for ``description``, synonyms drawn at random: 'the left small striped red ball next to a ring'.

    ``article`` is ``the``, ``a`` or nothing.
    """
    before: list[str] = []
    after: list[str] = []
    if description.place is not None:
        at_front = rng.random() < 0.5
        (before if at_front else after).append(
            rng.choice((PLACE_BEGINNINGS if at_front else PLACE_ENDINGS)[description.place])
        )
    if description.size is not None:
        before.append(rng.choice(SIZE_WORDS[description.size]))
    if description.pattern is not None:
        if rng.random() < 0.7:
            before.append(rng.choice(PATTERN_WORDS[description.pattern]))
        else:
            after.insert(0, rng.choice(PATTERN_ENDINGS[description.pattern]))
    if description.colour is not None:
        before.append(rng.choice(COLOUR_WORDS[description.colour]))
    noun = rng.choice(NOUNS[description.kind] if description.kind else ANY_NOUN)
    if description.relation is not None:
        after.append(relation_phrase(rng, description.relation))
    words = " ".join([*before, plural_of(noun) if plural else noun, *after])
    return with_article(article, words)


def plain_phrase(description: Description, *, plural: bool = False) -> str:
    """Words for stated attributes, the most usual ones only: 'striped red ball', 'thing'."""
    kind = NOUNS[description.kind][0] if description.kind else "thing"
    words = [*_usual_adjectives(description), plural_of(kind) if plural else kind]
    return " ".join(words)


def _usual_adjectives(description: Description) -> list[str]:
    stated = description.attributes
    return [usual_word(name, stated[name]) for name in ("size", "pattern", "colour") if name in stated]


def usual_word(attribute: str, value: str) -> str:
    """What a value of an attribute is called most often."""
    return ANSWER_WORDS[attribute][value][0]


def relation_phrase(rng: random.Random, relation: Relation) -> str:
    """Puts a relation into words, synonyms drawn at random: 'next to a ring'."""
    article = rng.choice(("the", "the", "a"))
    return f"{rng.choice(RELATION_WORDS[relation.name])} {noun_phrase(rng, relation.other, article=article)}"


def with_article(article: str, words: str) -> str:
    """Puts ``article`` before ``words``; ``a`` becomes ``an`` where the next word wants it."""
    if article == "a" and words[0] in "aeiou" and not words.startswith("one"):
        article = "an"
    return f"{article} {words}".strip()


def plural_of(noun: str) -> str:
    """Forms the plural of a noun of this world."""
    if noun.endswith(("x", "s")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("ty") else f"{noun}s"


def counted(rng: random.Random, description: Description, count: int) -> str:
    """'a red ball', 'two red balls', 'no red balls'."""
    if count == 1:
        return noun_phrase(rng, description, article=rng.choice(("a", "a", "one")))
    return f"{NUMBERS[count]} {noun_phrase(rng, description, plural=True)}"


def cleaned(text: str) -> str:
    """As the published ``sent`` of a ``raw`` expression: lower case, punctuation dropped, single blanks."""
    return " ".join(_NOT_A_WORD.sub(" ", text).lower().split())
