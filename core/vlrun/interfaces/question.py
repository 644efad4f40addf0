"""A question about images outside any split, and what a model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlrun.interfaces.examples import Example

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

    def as_example(self) -> Example[Any]:
        """An example of a task that answers them one by one: the text, or the first one, with the images."""
        return Example("question", self.texts[0], self.image_ids)


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
class RegionAttention:
    """How the attention that a text pays to an image is shared among the image's regions.

    Attributes:
        text, image_id: of the question.
        boxes: of the regions that the model sees, x1, y1, x2, y2 in pixels.
        shares: of the text as a whole, one for each region; they sum to 1.
        words: the words of the text as the model reads them; none where the backbone has no vocabulary of its own.
        word_shares: the shares of each word, which sum to 1.
    """

    text: str
    image_id: str
    boxes: tuple[Box, ...]
    shares: tuple[float, ...]
    words: tuple[str, ...] = ()
    word_shares: tuple[tuple[float, ...], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "text": self.text,
            "image": self.image_id,
            "boxes": [[*box] for box in self.boxes],
            "shares": [*self.shares],
            "words": [
                {"word": word, "shares": [*shares]} for word, shares in zip(self.words, self.word_shares, strict=True)
            ],
        }


@dataclass(frozen=True)
class Answer:
    """What a model says to a question.

    Attributes:
        choices: best first; one at least.
        image_sizes: (width, height) of each image of the question, in pixels.
        attention: for each image, or where images or texts compete for the best of them; none unless it was asked for
            and the backbone shows it.
    """

    question: Question
    choices: tuple[Choice, ...]
    image_sizes: tuple[tuple[int, int], ...] = ()
    attention: tuple[RegionAttention, ...] = ()

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
            **({"attention": [each.as_json() for each in self.attention]} if self.attention else {}),
        }
