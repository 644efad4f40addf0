"""A prediction beside what it is about and what is right: for files of predictions, and for people who look at some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from vlrun.interfaces.examples import Example
from vlrun.interfaces.question import Box


@dataclass(frozen=True)
class View:
    """An image to be looked at beside a prediction.

    Attributes:
        caption: why it is shown; empty where there is nothing to say.
        predicted, right: boxes in pixels of an image of ``size``, which is (width, height).
    """

    image_id: str
    caption: str = ""
    predicted: Box | None = None
    right: Box | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Case:
    """What a prediction is about, and how it compares with the truth.

    Attributes:
        id: of the prediction.
        texts, image_ids: what the model was given.
        truth: what is right, JSON-ready; empty where it is hidden.
        items: texts of what the prediction names by id alone.
        predicted, right: the prediction and the truth in words; ``right`` is empty where the truth is hidden.
        credit: how right the prediction is, in [0, 1]; None where nobody can say.
        question: what is asked here, by a task that asks several things of a split.
        views: images to look at.
    """

    id: str
    texts: tuple[str, ...] = ()
    image_ids: tuple[str, ...] = ()
    truth: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[str, str] = field(default_factory=dict)
    predicted: str = ""
    right: str = ""
    credit: float | None = None
    question: str = ""
    views: tuple[View, ...] = ()

    def context(self) -> dict[str, Any]:
        """The fields that a line of a predictions file has besides those of the prediction; no empty ones."""
        context = {"texts": [*self.texts], "images": [*self.image_ids], "items": self.items, "truth": self.truth}
        return {name: value for name, value in context.items() if value}


def target_fields(example: Example[Any]) -> dict[str, Any]:
    """The target of an example, JSON-ready: its fields that say something, or itself as ``target``."""
    target = example.target
    if target is None:
        return {}
    if is_dataclass(target):
        values = {each.name: getattr(target, each.name) for each in fields(target)}
        return {name: value for name, value in values.items() if value is not None and _is_plain(value)}
    return {"target": target} if _is_plain(target) else {}


def in_words(values: Mapping[str, Any]) -> str:
    """``name value, name value``; long numbers are rounded."""
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _is_plain(value: Any) -> bool:
    """Whether JSON has the like of it."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    return value is None or isinstance(value, str | int | float)
