"""Which answers follow from which: the colour of the ball tells whether the ball is red, and that there is a ball."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from vlrun_demo.language import Question


@dataclass(frozen=True)
class Facts:
    """What is known once a question is answered.

    Attributes:
        subject: attributes of the one thing that it is about, ``side`` among them.
        there, absent: kinds of which there is something, or nothing.
    """

    subject: dict[str, str]
    there: Set[str] = frozenset()
    absent: Set[str] = frozenset()


def facts(question: Question, answer: str) -> Facts:
    """Collects what ``question`` takes for granted and what ``answer`` adds."""
    if question.asks == "exist":
        kinds = frozenset(question.about.attributes.values())
        return Facts({}, kinds, frozenset()) if answer == "yes" else Facts({}, frozenset(), kinds)
    if question.asks == "both":
        return Facts({}, frozenset(question.options)) if answer == "yes" else Facts({})
    if question.asks == "either":
        return Facts({}, absent=frozenset(question.options)) if answer == "no" else Facts({})
    subject = dict(question.about.attributes)
    if question.asks == "side":
        subject["side"] = answer
    elif question.attribute and question.asks != "verify":
        subject[question.attribute] = answer
    elif question.attribute and answer == "yes":
        subject[question.attribute] = question.options[0]
    return Facts(subject, frozenset({subject["kind"]}) if "kind" in subject else frozenset())


def derived(premises: Facts, question: Question) -> str | None:
    """Answers ``question`` from ``premises`` alone; None where they do not tell."""
    if question.asks == "exist":
        return _existence(premises, question.about.attributes["kind"])
    if question.asks in ("either", "both"):
        answers = [_existence(premises, kind) for kind in question.options]
        decisive, otherwise = ("yes", "no") if question.asks == "either" else ("no", "yes")
        if decisive in answers:
            return decisive
        return None if None in answers else otherwise
    stated = question.about.attributes
    if not stated.items() <= premises.subject.items():  # it may be about another thing
        return None
    value = premises.subject.get("side" if question.asks == "side" else question.attribute or "")
    if value is None or question.asks != "verify":
        return value
    return "yes" if value == question.options[0] else "no"


def _existence(premises: Facts, kind: str) -> str | None:
    if kind in premises.there:
        return "yes"
    return "no" if kind in premises.absent else None
