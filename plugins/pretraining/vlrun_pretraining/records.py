"""One line of an annotation file of COCO captions: one caption of one image (no torch here)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

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
