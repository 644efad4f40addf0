"""A question in GQA's manner: its words, its program, its full answer, and which objects they point at.

GQA makes its questions from programs. ``select: ball (3)->filter pattern: striped [0]->query: color [1]`` asks for the
color of the striped ball; 3 is the object that it finds, and 0 and 1 are the steps that a step builds on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from vlrun import DemoImage, DemoObject
from vlrun_demo.language import (
    FIGURES,
    NOUNS,
    Description,
    Question,
    answer,
    plain_phrase,
    plural_of,
    referents,
    usual_word,
    with_article,
)

NAMES = {"colour": "color", "kind": "name", "size": "size", "pattern": "pattern"}
"""Our attributes as GQA, which is American, calls them."""


@dataclass(frozen=True)
class Step:
    """One operation of a program; ``dependencies`` are the numbers of the steps that it builds on."""

    operation: str
    argument: str
    dependencies: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The step as ``semantic`` has it, in the key order of the official files."""
        return {"operation": self.operation, "dependencies": list(self.dependencies), "argument": self.argument}

    def __str__(self) -> str:
        """As ``semanticStr`` has it; a step that builds on others lists them."""
        return f"{self.operation}: {self.argument}" + (f" {list(self.dependencies)}" if self.dependencies else "")


@dataclass(frozen=True)
class Wording:
    """One question of GQA without its ids.

    Attributes:
        pointers: for ``question``, ``answer`` and ``fullAnswer``: words ("3" or "2:4") -> object.
    """

    text: str
    answer: str
    full_answer: str
    types: dict[str, str]
    groups: dict[str, str | None]
    program: tuple[Step, ...] = ()
    pointers: dict[str, dict[str, str]] = field(default_factory=dict)


def worded(image: DemoImage, question: Question, rng: random.Random) -> Wording:
    """Puts a question into words; ``rng`` chooses among ways to say it."""
    if question.asks == "exist":
        return _exist(image, question, rng)
    if question.asks in ("either", "both"):
        return _two_kinds(image, question, rng)
    return _about_one(image, question, rng)


def object_of(image: DemoImage, thing: DemoObject) -> str:
    """Names ``thing`` as an object of its image: by number."""
    return str(next(index for index, other in enumerate(image.objects) if other is thing))


def category(kind: str) -> str:
    """Tells the category of a kind: ``figure`` or ``shape``."""
    return "figure" if kind in FIGURES else "shape"


def _about_one(image: DemoImage, question: Question, rng: random.Random) -> Wording:
    (thing,) = referents(image, question.about)
    subject = object_of(image, thing)
    selecting = _selecting(question.about, subject)
    asking, words = _ASKING[question.asks](image, question, thing, rng)
    asking = replace(asking, dependencies=(len(selecting) - 1,))
    pointers = {
        "question": _pointing(words.text, plain_phrase(question.about), subject),
        "answer": {"0": subject} if question.attribute == "kind" else {},
        "fullAnswer": _pointing(words.full_answer, _named(question, thing), subject),
    }
    return replace(words, program=(*selecting, asking), pointers=pointers)


def _selecting(about: Description, subject: str) -> list[Step]:
    steps = [Step("select", f"{about.kind or 'thing'} ({subject})")]
    for name, value in about.attributes.items():
        if name != "kind":
            steps.append(Step(f"filter {NAMES[name]}", usual_word(name, value), (len(steps) - 1,)))
    return steps


def _named(question: Question, thing: DemoObject) -> str:
    """What the full answer calls the thing; only an answer that tells its kind describes it otherwise."""
    return plain_phrase(question.about) if question.attribute == "kind" else thing.name


def _query(image: DemoImage, question: Question, thing: DemoObject, rng: random.Random) -> tuple[Step, Wording]:
    assert question.attribute is not None
    phrase, value = plain_phrase(question.about), answer(image, question)
    name = NAMES[question.attribute]
    if question.attribute == "kind":
        adjectives = phrase.removesuffix(" thing")
        text = rng.choice((f"What is the {phrase}?", f"Which kind of thing is {adjectives}?"))
        full_answer = f"The {phrase} is {with_article('a', value)}."
        kinds = ("categoryThat", "cat", "query")
        groups = _groups(f"12q-thing_{adjectives}", category(value))
    else:
        text = rng.choice((f"What color is the {phrase}?", f"What is the color of the {phrase}?"))
        full_answer = f"The {thing.name} is {value}."
        kinds = ("directOf" if " of " in text else "directWhich", "attr", "query")
        groups = _groups(f"10q-{thing.name}_{name}", name)
    return Step("query", name), _words(text, value, full_answer, kinds, groups)


def _side(image: DemoImage, question: Question, thing: DemoObject, rng: random.Random) -> tuple[Step, Wording]:
    phrase, value = plain_phrase(question.about), answer(image, question)
    text = rng.choice(
        (f"Which side of the picture is the {phrase} on?", f"On which side of the picture is the {phrase}?")
    )
    full_answer = f"The {thing.name} is on the {value} of the image."
    words = _words(text, value, full_answer, ("positionQuery", "attr", "query"), _groups(f"10q-{thing.name}_hposition"))
    return Step("query", "hposition"), words


def _choose(image: DemoImage, question: Question, thing: DemoObject, _: random.Random) -> tuple[Step, Wording]:
    value = answer(image, question)
    first, second = question.options
    argument = "|".join([value, *(option for option in question.options if option != value)])
    words = _words(
        f"Is the {plain_phrase(question.about)} {first} or {second}?",
        value,
        f"The {thing.name} is {value}.",
        ("chooseAttr", "attr", "choose"),
        _groups(f"10c-{thing.name}_color", "color"),
    )
    return Step("choose color", argument), words


def _verify(image: DemoImage, question: Question, thing: DemoObject, _: random.Random) -> tuple[Step, Wording]:
    (value,) = question.options
    truth = answer(image, question)
    words = _words(
        f"Is the {plain_phrase(question.about)} {value}?",
        truth,
        f"{truth.capitalize()}, the {thing.name} is {thing.attributes['colour']}.",
        ("verifyAttr" if truth == "yes" else "verifyAttrC", "attr", "verify"),
        _groups(f"06-{thing.name}_{value}"),
    )
    return Step("verify color", value), words


_ASKING = {"query": _query, "side": _side, "choose": _choose, "verify": _verify}


def _exist(image: DemoImage, question: Question, rng: random.Random) -> Wording:
    kind = question.about.kind
    assert kind is not None
    first, plural = _first(image, kind), plural_of(NOUNS[kind][0])
    text = rng.choice((f"Are there any {plural}?", f"Do you see any {plural}?"))
    full_answer = f"Yes, there is {with_article('a', kind)}." if first else f"No, there are no {plural}."
    words = _words(
        text,
        "yes" if first else "no",
        full_answer,
        ("exist" if first else "existC", "obj", "verify"),
        _groups(f"03-{kind}"),
    )
    steps = (Step("select", _selected(kind, first)), Step("exist", "?", (0,)))
    pointers = {
        "question": _pointing(text, plural, first),
        "answer": {},
        "fullAnswer": _pointing(full_answer, kind, first),
    }
    return replace(words, program=steps, pointers=pointers)


def _two_kinds(image: DemoImage, question: Question, rng: random.Random) -> Wording:
    first, second = question.options
    objects = {kind: _first(image, kind) for kind in question.options}
    there = [kind for kind in question.options if objects[kind]]
    truth = answer(image, question)
    plurals = {kind: plural_of(NOUNS[kind][0]) for kind in question.options}
    how_many, joint = ("any", "or") if question.asks == "either" else ("both", "and")
    opening = rng.choice(("Are there", "Do you see"))
    text = f"{opening} {how_many} {plurals[first]} {joint} {plurals[second]}?"
    if truth == "yes" and joint == "and":
        full_answer = f"Yes, there are both {with_article('a', first)} and {with_article('a', second)}."
    elif truth == "yes":
        full_answer = f"Yes, there is {with_article('a', there[0])}."
    elif there:
        (missing,) = (kind for kind in question.options if not objects[kind])
        full_answer = f"No, there is {with_article('a', there[0])} but no {plurals[missing]}."
    else:
        full_answer = f"No, there are no {plurals[first]} or {plurals[second]}."
    name = f"exist{joint.capitalize()}"
    words = _words(
        text,
        truth,
        full_answer,
        (name if truth == "yes" else f"{name}C", "obj", "logical"),
        _groups(f"09{name}-{'_'.join(sorted(question.options))}"),
    )
    steps = (
        Step("select", _selected(first, objects[first])),
        Step("exist", "?", (0,)),
        Step("select", _selected(second, objects[second])),
        Step("exist", "?", (2,)),
        Step(joint, "", (1, 3)),
    )
    pointers: dict[str, dict[str, str]] = {"question": {}, "answer": {}, "fullAnswer": {}}
    for kind in there:
        pointers["question"] |= _pointing(text, plurals[kind], objects[kind])
        pointers["fullAnswer"] |= _pointing(full_answer, kind, objects[kind])
    return replace(words, program=steps, pointers=pointers)


def _words(
    text: str, value: str, full_answer: str, kinds: tuple[str, str, str], groups: dict[str, str | None]
) -> Wording:
    """A wording whose program and pointers come later."""
    detailed, semantic, structural = kinds
    types = {"detailed": detailed, "semantic": semantic, "structural": structural}
    return Wording(text, value, full_answer, types, groups)


def _groups(local: str, everywhere: str | None = None) -> dict[str, str | None]:
    return {"global": everywhere, "local": local}


def _first(image: DemoImage, kind: str) -> str:
    """The first object of a kind; empty if there is none."""
    things = referents(image, Description(kind=kind))
    return object_of(image, things[0]) if things else ""


def _selected(kind: str, name: str) -> str:
    """GQA leaves a blank behind what is not there."""
    return f"{kind} ({name})" if name else f"{kind} (-) "


def _pointing(sentence: str, phrase: str, name: str) -> dict[str, str]:
    """Which words of ``sentence`` name the object, if there is one: a word's number, or first and end as in a slice."""
    if not name:
        return {}
    words = [word.strip(",.?") for word in sentence.split()]
    wanted = phrase.split()
    for first in range(len(words) - len(wanted) + 1):
        end = first + len(wanted)
        if words[first:end] == wanted:
            return {str(first) if len(wanted) == 1 else f"{first}:{end}": name}
    return {}
