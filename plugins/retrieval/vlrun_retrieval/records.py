"""One line of an annotation file of COCO captions or Flickr30k: one caption of one image (no torch here)."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, field_validator

from vlrun import Config, canonical_image_id


class ImageCaption(Config):
    """A caption and the image that it belongs to. Example::

    {"id": "1007129816#0", "text": "The man with pierced ears is wearing glasses and an orange hat.",
     "image": "1007129816", "position": 0}

    Captions of one image lie together, in the order of the source; so do the images.
    """

    id: str = Field(
        min_length=1, description="sentid of Karpathy's files as text, or image#position where the source has none"
    )
    text: str = Field(description="the caption as it was typed")
    image: str = Field(min_length=1, description="file name of the image without folder and suffix")
    position: NonNegativeInt = Field(description="which caption of its image this is, from 0")

    @field_validator("image")
    @classmethod
    def _image_is_canonical(cls, image: str) -> str:
        if image != canonical_image_id(image):
            raise ValueError(f"should be written '{canonical_image_id(image)}'")
        return image
