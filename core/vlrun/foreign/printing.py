"""Printing what others wrote: ids, texts, names and keys may hold what controls a terminal, or hides text."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable
from typing import Any, TextIO

from vlrun.foreign.json import finite

_DIRECTIONS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_IN_JSON = re.compile(f"[\x7f-\x9f\u2028\u2029{_DIRECTIONS}]")
"""What JSON leaves as it is, and a terminal obeys."""


def say(*lines: object, to: TextIO | None = None, flush: bool = False) -> None:
    """Prints each argument on a line of its own, on standard output or on ``to``.

    Everything that a command prints goes through here or through a reporter. Line ends within an argument and
    characters that control the terminal become spaces, those that it cannot encode question marks.
    """
    stream = sys.stdout if to is None else to
    stream.write("".join(f"{encodable(plain(str(line)), stream)}\n" for line in lines))
    if flush:
        stream.flush()


def say_json(
    content: Any, *, indent: int | None = 2, default: Callable[[Any], Any] | None = None, flush: bool = False
) -> None:
    """Prints JSON on standard output: letters as they are, what a terminal obeys or cannot encode as ``\\u009b``.

    Args:
        default: makes something of what is no JSON, as for ``json.dumps``; nan and infinity become null.
    """
    stream = sys.stdout
    text = json.dumps(finite(content), indent=indent, ensure_ascii=False, default=default)
    text = _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = "".join(each if each.isascii() else json.dumps(each)[1:-1] for each in text)
    stream.write(f"{text}\n")
    if flush:
        stream.flush()


def plain(text: str) -> str:
    """``text`` on one line without control characters, which could move the cursor, or hide or turn what follows."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if _controls(character) else character for character in text)


def _controls(character: str) -> bool:
    """Whether it ends a line, or controls the terminal or the direction of the text after it."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in _DIRECTIONS


def encodable(text: str, stream: TextIO) -> str:
    """``text`` with ``?`` for characters that the stream cannot encode."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("±", "+-").encode(encoding, "replace").decode(encoding)
    return text
