"""One line of an annotation file of COCO captions: one caption of one image (no torch here)."""

from __future__ import annotations

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
