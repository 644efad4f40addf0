"""A question about images outside any split, and what a model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Question:
    """What somebody asks.

    Attributes:
        texts: one text, or several that compete for an image.
        image_ids: canonical ids; of a photograph what its region features are called.
    """

    texts: tuple[str, ...]
    image_ids: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """One of the things that a model could answer.

    Attributes:
        text: an answer, ``true``, the id of an image, a caption, a region.
        probability: in [0, 1]; None where the task has none.
        box: x1, y1, x2, y2 in pixels of the image, where it is a place.
    """

    text: str
    probability: float | None = None
    box: Box | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields that have a value."""
        fields = {"text": self.text, "probability": self.probability, "box": None if self.box is None else [*self.box]}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Answer:
    """What a model says to a question.

    Attributes:
        choices: best first; one at least.
        image_sizes: (width, height) of each image of the question, in pixels.
    """

    question: Question
    choices: tuple[Choice, ...]
    image_sizes: tuple[tuple[int, int], ...] = ()

    @property
    def best(self) -> Choice:
        """The model's answer."""
        return self.choices[0]

    def cut(self, number: int) -> Answer:
        """The same with the best ``number`` choices."""
        return replace(self, choices=self.choices[:number])

    def as_json(self) -> dict[str, Any]:
        """The question, and the choices with the best first."""
        sizes: Sequence[tuple[int, int] | None] = self.image_sizes or [None] * len(self.question.image_ids)
        images = [
            {"id": name, **({"width": size[0], "height": size[1]} if size else {})}
            for name, size in zip(self.question.image_ids, sizes, strict=True)
        ]
        return {
            "texts": list(self.question.texts),
            "images": images,
            "answer": self.best.text,
            "choices": [choice.as_json() for choice in self.choices],
        }
