"""What JSON from anywhere may look like: how deep it is nested, and which numbers and characters it has.

Python reads more than the rest of a program can carry: numbers of four thousand digits, that no array takes, half
characters, that no file takes, and brackets so deep that whatever walks over them afterwards fails.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from itertools import accumulate
from typing import Any, NoReturn

MAX_DEPTH = 100
"""Brackets within brackets; the deepest official file, of scene graphs, has eight."""

_SHAPE = bytes.maketrans(
    bytes(range(256)),
    bytes(ord("0") if chr(code).isdecimal() else ord("e") if chr(code) in "eE" else ord(" ") for code in range(256)),
)
_LONG, _LARGE = b"0" * 19, b"0e000"
"""As ``_SHAPE`` shows them: digits that may exceed 64 bits, and an exponent that may exceed a double."""

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LONE = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|[c-fC-F])")
"""Half of a character, or the second half of a whole one, or neither where a backslash stands before it."""


class Nesting:
    """Follows how deep JSON is nested, from block to block; a bracket within a text does not count."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = False
        self._rest = b""

    def feed(self, block: bytes) -> None:
        """Takes the next bytes.

        Raises:
            ValueError: they are nested too deeply.
        """
        block = self._rest + block
        self._rest = b"\\" if (len(block) - len(block.rstrip(b"\\"))) % 2 else b""
        block = block[: len(block) - len(self._rest)]
        if b"\\" in block:
            block = block.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = block.split(b'"')
        outside = b"".join(parts[self._in_text :: 2])
        self._in_text ^= len(parts) % 2 == 0
        depths = list(accumulate(array("b", outside.translate(_STEPS, _NO_BRACKETS)), initial=self._depth))
        if max(depths) > MAX_DEPTH:
            raise ValueError(f"nested too deeply, more than {MAX_DEPTH} deep")
        self._depth = depths[-1]


def parse_json(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """What JSON from anywhere says.

    Args:
        allow_nan: read ``NaN`` and ``Infinity``, which are no JSON, as Python writes them.

    Raises:
        ValueError: it is no JSON, or not UTF-8; it is nested more than 100 deep; it has an integer of more than 64
            bits, a number larger than a double, or half a character (a lone surrogate).
    """
    if isinstance(text, bytes):
        encoding = json.detect_encoding(text)
        content, text = text, text.decode(encoding)
        content = content if encoding.startswith("utf-8") else _encoded(text)
    else:
        content = _encoded(text)
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH:
        nesting = Nesting()
        for start in range(0, len(content), 1 << 20):
            nesting.feed(content[start : start + (1 << 20)])
    found = _DECODERS[allow_nan, has_large_number(content)].decode(text)
    if b"\\u" in content and _LONE.search(content):
        _encoded(json.dumps(found, ensure_ascii=False))
    return found


def has_large_number(content: bytes) -> bool:
    """Whether ``parse_json`` may refuse a number in ``content``; texts that hold such digits count, too."""
    shape = content.translate(_SHAPE, b"+")
    return _LONG in shape or _LARGE in shape


def finite(value: Any) -> Any:
    """``value`` with every nan and infinity, at any depth, replaced by None: JSON cannot express them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"a number of {len(digits.lstrip('-')):,} digits, which no 64 bits hold")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"a number that is too large ({digits[:20]}{'...' if len(digits) > 20 else ''})")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("half a character (a lone surrogate)") from None


_DECODERS = {
    (allow_nan, has_large): json.JSONDecoder(
        parse_constant=None if allow_nan else _refuse_constant,
        parse_int=_whole if has_large else None,
        parse_float=_finite if has_large else None,
    )
    for allow_nan in (False, True)
    for has_large in (False, True)
}
