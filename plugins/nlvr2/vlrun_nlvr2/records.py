"""One line of an annotation file of NLVR2: one statement about two images (no torch here)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool

from vlrun import Config, canonical_image_id

Subset = Literal["balanced", "unbalanced"]


def _is_canonical(name: str) -> str:
    if name != canonical_image_id(name):
        raise ValueError(f"should be written '{canonical_image_id(name)}'")
    return name


ImageId = Annotated[str, Field(min_length=1), AfterValidator(_is_canonical)]


class ImagePairStatement(Config):
    """A sentence that is true or false of two images. Example::

    {"id": "dev-850-0-1", "text": "Two owls sit on one branch.", "images": ["dev-850-0-img0", "dev-850-0-img1"],
     "label": false, "group": "dev-850--1", "subsets": ["balanced"], "categories": ["hard cardinality"]}
    """

    id: str = Field(min_length=1, description="identifier of the official files: split-set-pair-sentence")
    text: str = Field(description="the statement")
    images: tuple[ImageId, ImageId] = Field(
        description="the left and the right image: file names without folder and suffix"
    )
    label: StrictBool | None = Field(None, description="whether the statement is true; absent where it is hidden")
    group: str = Field(
        min_length=1, description="split-set--sentence: one sentence of one image set; the unit of consistency"
    )
    subsets: tuple[Subset, ...] | None = Field(
        None, description="official subsets that hold the statement; absent where the source does not say"
    )
    categories: tuple[str, ...] | None = Field(
        None, description="linguistic phenomena of the sentence; absent unless its authors annotated them"
    )
