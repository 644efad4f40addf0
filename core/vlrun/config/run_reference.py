"""``backbone.weights: run:NAME``: weights that are not a file yet, but the checkpoint of another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PREFIX = "run:"
CHECKPOINTS = ("best", "last")


@dataclass(frozen=True)
class RunReference:
    """``run:PLACE@CHECKPOINT``.

    Attributes:
        place: the name of an experiment, or the path of a run folder; relative to the runs root.
        checkpoint: ``best`` or ``last``.
    """

    place: str
    checkpoint: str = CHECKPOINTS[0]


def run_reference(weights: Path | None) -> RunReference | None:
    """What ``backbone.weights`` names if it names a run; None for a file, and for none.

    Raises:
        ValueError: it names no run, or no checkpoint that there is.
    """
    if weights is None or not str(weights).startswith(PREFIX):
        return None
    place, at, checkpoint = str(weights).removeprefix(PREFIX).rpartition("@")
    if not at:
        place, checkpoint = checkpoint, CHECKPOINTS[0]
    if not place or checkpoint not in CHECKPOINTS:
        raise ValueError(f"write {PREFIX}NAME, {PREFIX}NAME@best or {PREFIX}NAME@last, with a run folder or a name")
    return RunReference(place, checkpoint)
