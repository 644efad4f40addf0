"""Ground truths that tasks and datasets of different plugins share; each goes with the ``target`` of an Entry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Referent:
    """What a referring expression means (target ``"referent"``).

    Attributes:
        box: x, y, width, height in pixels, as annotated.
        image_height, image_width: in pixels, as annotated.
        ref_id: the referent, which several expressions may share; None where the source does not say.
    """

    box: tuple[float, float, float, float]
    image_height: int
    image_width: int
    ref_id: int | None = None
