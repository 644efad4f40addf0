"""One line of an annotation file of VQA v2: one question with what people answered (no torch here)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from vlrun import Config, canonical_image_id

ID_PATTERN = "(0|[1-9][0-9]{0,17})"
"""Of an id: a number, as text, that fits into 64 bits."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class VqaQuestion(Config):
    """A question about an image. Example::

    {"id": "458752000", "text": "What is this photo taken looking through?", "image": "COCO_train2014_000000458752",
     "answers": ["net", "net", "net", "netting", "net", "net", "mesh", "net", "net", "net"],
     "answer_type": "other", "question_type": "what is this"}

    Without ``answers`` and ``scores`` the answer is hidden.
    """

    id: str = Field(
        pattern=f"^{ID_PATTERN}$",
        description="question_id of the official files, as text; the evaluation server wants it as a number",
    )
    text: str = Field(description="the question as it was asked")
    image: str = Field(min_length=1, description="file name of the image without folder and suffix")
    answers: tuple[str, ...] | None = Field(
        None, min_length=1, description="one per annotator, normally ten, as they were typed"
    )
    annotators: tuple[int, ...] | None = Field(
        None,
        description="who gave each answer, where the source does not tell all annotators apart; the official accuracy "
        "leaves out equal answers of one annotator together. Absent: all differ",
    )
    scores: dict[str, Share] | None = Field(
        None, description="answer -> soft score, where the source has no answers; others score 0"
    )
    answer_type: str | None = Field(None, description="yes/no, number or other")
    question_type: str | None = Field(None, description="how the question starts, such as 'what color is the'")

    @model_validator(mode="after")
    def _image_and_answers_make_sense(self) -> VqaQuestion:
        if self.image != canonical_image_id(self.image):
            raise ValueError(f"image '{self.image}' should be written '{canonical_image_id(self.image)}'")
        if self.answers is not None and self.scores is not None:
            raise ValueError("there are both answers and scores; scores follow from answers, so leave them out")
        if self.annotators is not None and len(self.annotators) != len(self.answers or ()):
            raise ValueError(f"{len(self.annotators)} annotators gave {len(self.answers or ())} answers")
        return self
