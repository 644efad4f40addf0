"""One line of an annotation file: one caption or question of one image (no torch here)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, field_validator, model_validator

from vlrun import Config, canonical_image_id


class CocoCaption(Config):
    """A caption and the image that it describes. Example::

    {"id": "48", "text": "A very clean and well decorated empty bathroom", "image": "COCO_train2014_000000318556"}

    Captions of one image lie together, in the order of the source; so do the images.
    """

    id: str = Field(min_length=1, description="id of COCO's annotation, as text")
    text: str = Field(description="the caption as it was typed")
    image: str = Field(min_length=1, description="file name of the image without folder and suffix")

    @field_validator("image")
    @classmethod
    def _image_is_canonical(cls, image: str) -> str:
        if image != canonical_image_id(image):
            raise ValueError(f"should be written '{canonical_image_id(image)}'")
        return image


class LxmertText(Config):
    """A caption or a question of LXMERT's pre-training, with its image. Example::

    {"id": "COCO_val2014_000000318556_vqa_0", "text": "Is it clean?", "image": "COCO_val2014_000000318556",
     "source": "vqa", "answers": {"yes": 1.0}}
    """

    id: str = Field(min_length=1, description="image, source and number of the text")
    text: str = Field(description="the text as it was typed")
    image: str = Field(min_length=1, description="file name of the image without folder and suffix")
    source: str = Field(description="the set that it is of, such as mscoco, vg, vqa, gqa or vgqa")
    answers: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        None, description="answers to a question that are in the table, each with its score; null: no question"
    )

    @field_validator("image")
    @classmethod
    def _image_is_canonical(cls, image: str) -> str:
        if image != canonical_image_id(image):
            raise ValueError(f"should be written '{canonical_image_id(image)}'")
        return image


Words = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
"""Numbers of words, from 0 on. Of an object of several words the first one alone counts."""

Frequency = Annotated[NonNegativeFloat, Field(allow_inf_nan=False)]


class GraphAttribute(Config):
    """What a text says an object is."""

    object: Words
    words: Words
    frequency: Frequency = Field(description="how often that is said of such objects, of all that is")


class GraphRelation(Config):
    """What a text says about two objects."""

    subject: Words
    words: Words
    object: Words
    of_subject: Frequency = Field(description="how often that, with the object, is said of such subjects")
    of_object: Frequency = Field(description="how often that, with the subject, is said of such objects")


class GraphedText(Config):
    """A text of ROSITA's pre-training with its scene graph, in numbers of its words. Example::

    {"id": "pt-coco_48", "text": "A red ball on grass", "image": "COCO_train2014_000000318556",
     "lemmas": ["a", "red", "ball", "on", "grass"], "objects": [[2], [4]],
     "attributes": [{"object": [2], "words": [1], "frequency": 0.02}],
     "relations": [{"subject": [2], "words": [3], "object": [4], "of_subject": 0.001, "of_object": 0.0}]}
    """

    id: str = Field(min_length=1, description="set and number of the text")
    text: str = Field(description="the words of the text with a space between them, without punctuation")
    image: str = Field(min_length=1, description="file name of the image without folder and suffix")
    lemmas: list[str] = Field(description="the lemma of each word")
    objects: list[Words] = Field([], description="the words of each object")
    attributes: list[GraphAttribute] = Field([], description="what is said of one object")
    relations: list[GraphRelation] = Field([], description="what is said of two")

    @field_validator("image")
    @classmethod
    def _image_is_canonical(cls, image: str) -> str:
        if image != canonical_image_id(image):
            raise ValueError(f"should be written '{canonical_image_id(image)}'")
        return image

    @model_validator(mode="after")
    def _graph_is_of_the_text(self) -> Self:
        words = len(self.text.split())
        if len(self.lemmas) != words:
            raise ValueError(f"there are {words} words and {len(self.lemmas)} lemmas")
        if (last := max((word for part in self._parts() for word in part), default=-1)) >= words:
            raise ValueError(f"the graph names word {last}, and the text has {words}, from 0 on")
        return self

    def _parts(self) -> Iterator[Words]:
        yield from self.objects
        for attribute in self.attributes:
            yield from (attribute.object, attribute.words)
        for relation in self.relations:
            yield from (relation.subject, relation.words, relation.object)
