"""Damage to files: what a disk, a careless script or somebody hostile makes of one that is right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

TOKENS = (
    *(b"", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\xef\xbb\xbf", b"\n", b"\r", b"\t", b" ", b"\x1b]0;x\x07"),
    *(b"[", b"]", b"{", b"}", b'"', b"'", b",", b":", b"\\", b"#", b"&a", b"*a", b"!!python/name:os.system", b"---\n"),
    *(b"0", b"-1", b"1e999", b"NaN", b"-Infinity", b"null", b"true", b"[]", b"{}", b'""', b"../../x", b"/etc/passwd"),
    *(b"9" * 19, b"9" * 400, b"9" * 5000, b"[" * 300, b'{"a":' * 300, b"A" * 300, b"<script>alert(1)</script>"),
    *(
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\x7f",
        b"\x00\x00\x00\x80",
        b"\xff" * 8,
        b"\xff" * 7 + b"\x7f",
    ),
    *(b"cos\nsystem\n", b"R", b"b", b".", b"r\xff\xff\xff\xff", b"\x94", b"\x93", b"(", b"t", b"PK\x03\x04"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**18, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "0", "-1", "../../x", "/etc/passwd", "a\nb", "\x1b[2J", "\x00", "\ud800", "<b>", "9" * 400, "x" * 5000),
    *([], {}, [[]], [{}], {"": 0}, [None], [0], ["x"], [[0, 0]], {"x": None}, [1] * 300),
)


def damaged(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """One of ``seeds`` with a few things changed, or a few bytes of anything."""
    content = rng.choice(seeds)
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(200))
    if content[:1] in (b"{", b"[") and rng.random() < 0.5 and (values := _read(content)):
        return _with_other_values(rng, values)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(content))
        end = min(len(content), at + rng.choice((0, 1, 2, 4, 8, 40, 1 << 30)))
        with_ = rng.choice(TOKENS) if rng.random() < 0.6 else rng.randbytes(rng.randrange(9))
        content = content[:at] + with_ + content[end:]
    return content


def _read(content: bytes) -> list[Any]:
    """The JSON in ``content``, or in each of its lines; nothing if it is none."""
    for texts in ([content], content.splitlines()):
        try:
            return [json.loads(text) for text in texts]
        except ValueError:
            continue
    return []


def _with_other_values(rng: Random, values: list[Any]) -> bytes:
    """JSON in which a few values are others, gone, or there twice, or a key is another."""
    for _ in range(rng.randint(1, 3)):
        holder: Any = values
        while holder:
            key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            if isinstance(holder[key], dict | list) and rng.random() < 0.75:
                holder = holder[key]
                continue
            what = rng.random()
            if what < 0.1:
                del holder[key]
            elif what < 0.2 and isinstance(holder, dict):
                holder[str(rng.choice(VALUES))] = holder.pop(key)
            elif what < 0.3 and isinstance(holder, list):
                holder.append(deepcopy(holder[key]))
            else:
                holder[key] = deepcopy(rng.choice(VALUES))
            break
    return b"\n".join(json.dumps(value).encode() for value in values)
