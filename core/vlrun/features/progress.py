"""Progress of long work over many images: a live line on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_PLAIN_SECONDS = 5.0
_LIVE_SECONDS = 0.2


class Progress:
    """Counts from ``done`` images on; says rate and time left."""

    def __init__(self, what: str, done: int = 0, share: float = 0.0, stream: TextIO | None = None) -> None:
        self._what = what
        self._stream = sys.stderr if stream is None else stream
        self._is_live = self._stream.isatty()
        self._begin = self._last = time.monotonic()
        self._first_done, self._first_share = done, share

    def update(self, done: int, share: float) -> None:
        """``done`` images so far, which are ``share`` of all, in [0, 1]."""
        now = time.monotonic()
        if now - self._last < (_LIVE_SECONDS if self._is_live else _PLAIN_SECONDS):
            return
        self._last = now
        line = self._line(done, share, now - self._begin)
        self._stream.write(f"\r{line}\x1b[K" if self._is_live else f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Leaves the live line, so that what follows starts on a line of its own."""
        if self._is_live and self._last != self._begin:
            self._stream.write("\n")

    def _line(self, done: int, share: float, seconds: float) -> str:
        rate = (done - self._first_done) / seconds
        line = f"{self._what}: {done:,} images, {share:.0%}, {rate:,.0f}/s"
        if share > self._first_share:
            line += f", {in_words(seconds * (1 - share) / (share - self._first_share))} left"
        return line


def in_words(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
