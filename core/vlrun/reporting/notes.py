"""For commands that print results on standard output: remarks, and how far it is, go to standard error."""

from __future__ import annotations

import sys
import time

from vlrun.engine.ranks import Ranks
from vlrun.interfaces.reporter import Reporter, Reporters
from vlrun.reporting.lines import duration_text, share_text

_SECONDS_BETWEEN_LINES = 15.0


class Notes(Reporter):
    """Plain lines; a long activity says every few seconds how much of it is done."""

    shows_notes = True

    def __init__(self) -> None:
        self._what, self._started, self._told = "", 0.0, 0.0

    def note(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)  # noqa: T201

    def progress(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._told = what, now, now
        if done and now - self._told > _SECONDS_BETWEEN_LINES:
            self._told = now
            left = duration_text((now - self._started) * (total - done) / done)
            self.note(f"{what}: {share_text(done / total)} done, about {left} left")


def notes_on_stderr(ranks: Ranks) -> Reporters:
    """Only the main rank speaks."""
    return Reporters([Notes()] if ranks.is_main else [])
