"""One line of an annotation file of GQA: one question with what its metric needs (no torch here)."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, model_validator

from vlrun import Config, canonical_image_id


class GqaQuestion(Config):
    """A question about an image. Example::

    {"id": "07333408", "text": "Is the kite red?", "image": "2370799", "answer": "no", "is_balanced": true,
     "structural": "verify", "semantic": "attr", "detailed": "verifyAttrC", "steps": 2, "entailed": ["07333409"]}
    """

    id: str = Field(min_length=1, description="question id, as text: leading zeros tell questions apart")
    text: str = Field(description="the question")
    image: str = Field(min_length=1, description="image id; those of testdev and the test splits start with n")
    answer: str | None = Field(None, description="compared letter by letter; left out where it is hidden")
    is_balanced: bool | None = Field(
        None, description="scores count balanced questions only; left out where the source does not say"
    )
    structural: str | None = Field(None, description="query (open), or verify, choose, logical, compare (binary)")
    semantic: str | None = Field(None, description="what is asked about: obj, attr, cat, rel, global")
    detailed: str | None = Field(None, description="the most detailed type, such as verifyAttrC")
    group: str | None = Field(None, description="groups.global: questions whose answers are compared as a distribution")
    steps: NonNegativeInt | None = Field(None, description="reasoning steps, as the official evaluator counts them")
    entailed: tuple[str, ...] | None = Field(
        None, description="other questions whose answers follow from this one's; left out if there are none"
    )
    valid: tuple[str, ...] | None = Field(None, description="answers that fit the question at all (choices file)")
    plausible: tuple[str, ...] | None = Field(None, description="answers that make sense in the world (choices file)")

    @model_validator(mode="after")
    def _ids_are_canonical(self) -> GqaQuestion:
        if self.image != canonical_image_id(self.image):
            raise ValueError(f"image '{self.image}' should be written '{canonical_image_id(self.image)}'")
        if self.id in (self.entailed or ()):
            raise ValueError(f"entailed: holds the question itself, '{self.id}'")
        return self
