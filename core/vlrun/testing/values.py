"""What the checks of datasets and metrics ask of values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor


def is_same(first: Any, second: Any) -> bool:  # noqa: PLR0911 - one for each kind
    """Whether two values are equal in all of their parts, arrays too; nan equals nan."""
    if type(first) is not type(second):
        return False
    if is_dataclass(first):
        return all(is_same(getattr(first, field.name), getattr(second, field.name)) for field in fields(first))
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(is_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(is_same, first, second))
    if isinstance(first, Tensor):
        first, second = first.numpy(force=True), second.numpy(force=True)
    if isinstance(first, np.ndarray):
        return bool(np.array_equal(first, second, equal_nan=first.dtype.kind in "fc"))
    equality: Any = type(first).__eq__
    if equality is object.__eq__ and hasattr(first, "__dict__"):
        return is_same(vars(first), vars(second))
    return bool(first == second) or bool(first != first and second != second)  # noqa: PLR0124 - nan


def check_protocol(protocol: Any, whose: str) -> None:
    """Asserts that a protocol can be written to JSON and read back as it was."""
    assert isinstance(protocol, Mapping), f"the protocol of {whose} must be a dict, and is {protocol!r}"
    for name, value in protocol.items():
        assert isinstance(name, str), f"the protocol of {whose} has {name!r} for a name, which is no text"
        try:
            read = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AssertionError(
                f"'{name}' in the protocol of {whose} cannot be written to JSON: {value!r} ({error})"
            ) from error
        assert is_same(read, value), (
            f"'{name}' in the protocol of {whose} is {value!r}, and {read!r} once read from JSON"
        )
