"""One line of an annotation file of RefCOCO, RefCOCO+ or RefCOCOg: one expression with its box (no torch here)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat, NonNegativeFloat, PositiveInt, model_validator

from vlrun import Config, canonical_image_id

NonNegativeFinite = Annotated[NonNegativeFloat, Field(allow_inf_nan=False)]


class ReferringExpression(Config):
    """A phrase and the box that it means. Example::

    {"id": "20", "text": "guy with hat", "raw": "Guy w/ hat", "image": "COCO_train2014_000000000321",
     "width": 640, "height": 480, "box": [10.5, 20.0, 100.0, 200.25], "ref_id": 9, "ann_id": 55,
     "category": "person", "split_by": "unc"}
    """

    id: str = Field(min_length=1, description="sent_id of the official files, as text; unique within a dataset")
    text: str = Field(description="the expression that the model reads")
    raw: str | None = Field(None, description="the expression as it was typed, if the source has it")
    image: str = Field(min_length=1, description="file name of the image without folder and suffix")
    width: PositiveInt = Field(description="of the image, in pixels")
    height: PositiveInt = Field(description="of the image, in pixels")
    box: tuple[FiniteFloat, FiniteFloat, NonNegativeFinite, NonNegativeFinite] = Field(
        description="of the referent: x, y, width, height in pixels"
    )
    ref_id: int | None = Field(None, description="the referent; several expressions may share it")
    ann_id: int | None = Field(None, description="annotation id of COCO")
    category: str | None = Field(None, description="category of COCO, such as 'person'")
    split_by: str | None = Field(None, description="who made the splits: unc, umd or google")

    @model_validator(mode="after")
    def _image_and_box_make_sense(self) -> ReferringExpression:
        if self.image != canonical_image_id(self.image):
            raise ValueError(f"image '{self.image}' should be written '{canonical_image_id(self.image)}'")
        x, y, width, height = self.box
        if x >= self.width or y >= self.height or x + width < 0 or y + height < 0:
            raise ValueError(f"box {list(self.box)} lies outside the image of {self.width} x {self.height} pixels")
        return self
