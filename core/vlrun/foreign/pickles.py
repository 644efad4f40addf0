"""Reading pickles of plain values without running anything in them.

A pickle is a program, which may call whatever it names and may ask for memory without end. This reader is Python's own
one without the instructions that a file of data needs none of, and what it has read can be walked over.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from types import NoneType
from typing import Any, ClassVar, NoReturn

from vlrun.errors import DataError

_MAX_DEPTH = 100
_LARGEST = 1 << 4096
_FEW = 100_000
"""Values, of which a file of any size may hold so many, and a larger one as many as bytes: shared ones count again."""

_PLAIN = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"),
    *("GET", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2"),
    *("LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
    *("GLOBAL", "STACK_GLOBAL", "INST"),  # these only look up a name, which is refused there, with the name
)


class RefusedNameError(DataError):
    """A pickle names something that loading it would use.

    Attributes:
        name: what it names.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"refused: loading it would use {name}; such a file holds arrays alone")
        self.name = name


def read_plain(content: bytes, encoding: str = "utf-8") -> Any:
    """What is pickled in ``content``: lists, tuples, dicts, sets, texts, bytes and numbers.

    Args:
        encoding: of the strings of Python 2.

    Raises:
        RefusedNameError: it names something, so that loading it would run code.
        DataError: it is damaged, or nested too deeply, or holds a value again and again.
        UnicodeDecodeError: a string of Python 2 is not in this encoding.
    """
    return loaded(PlainUnpickler(io.BytesIO(content), encoding=encoding), len(content))


def loaded(reader: PlainUnpickler, size: int) -> Any:
    """What a reader reads of a file of so many bytes; errors as of ``read_plain``."""
    try:
        found = reader.load()
    except (DataError, UnicodeDecodeError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"damaged pickle: {type(error).__name__}: {error}") from error
    _check(found, max(size, _FEW))
    return found


def _check(found: Any, limit: int) -> None:
    """Refuses what nothing can walk over: containers in containers without end, and numbers that cannot be printed."""
    level, seen = [found], 0
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is str:
                if not value.isascii():
                    _encodable(value)
            elif kind is int:
                if not -_LARGEST < value < _LARGEST:
                    raise DataError(f"damaged pickle: a number of {value.bit_length():,} bits")
            elif kind is dict:
                inner += value
                inner += value.values()
            elif kind in (list, tuple, set, frozenset):
                inner += value
            elif kind not in (float, bool, bytes, NoneType):
                inner += _in_array(value)
            if len(inner) > limit - seen:
                raise DataError("refused: it holds the same values again and again, more than its size allows")
        if not inner:
            return
        level = inner
        seen += len(level)
    raise DataError(f"refused: nested more than {_MAX_DEPTH} deep")


def _in_array(value: Any) -> list[Any]:
    """The objects in an array; raises DataError for what is neither an array nor a value."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return value.ravel().tolist() if value.dtype == object else []
    if isinstance(value, np.generic | bytearray):
        return []
    raise DataError("damaged pickle: an array without values")


def _encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError("damaged pickle: half a character (a lone surrogate)") from None


class PlainUnpickler(pickle._Unpickler):
    """Reads plain values. Not C's: its instructions cannot be left out, and it takes the memory that is asked for."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _PLAIN
    }

    def find_class(self, module: str, name: str) -> Any:
        """Refuses every name."""
        raise RefusedNameError(f"{module}.{name}")


def refuse(what: str) -> NoReturn:
    """Raises DataError for an instruction that no writer of data writes."""
    raise DataError(f"damaged pickle: {what}")


def _keys_checked(keys: list[Any]) -> None:
    """Tuples in tuples cost twice as much for each level when they are hashed."""
    for key in keys:
        if isinstance(key, tuple | frozenset) and any(isinstance(part, tuple | frozenset) for part in key):
            refuse("a key that is a tuple of tuples")


def _load_setitem(self: Any) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    _set_items(self.stack[-1], [key], [value])


def _load_setitems(self: Any) -> None:
    items = self.pop_mark()
    _set_items(self.stack[-1], items[::2], items[1::2])


def _load_dict(self: Any) -> None:
    items = self.pop_mark()
    made: dict[Any, Any] = {}
    _set_items(made, items[::2], items[1::2])
    self.append(made)


def _set_items(container: Any, keys: list[Any], values: list[Any]) -> None:
    if type(container) is not dict:
        refuse(f"keys for {type(container).__name__}")
    _keys_checked(keys)
    container.update(zip(keys, values, strict=True))


def _load_appends(self: Any) -> None:
    items = self.pop_mark()
    _extend(self.stack[-1], items)


def _load_append(self: Any) -> None:
    item = self.stack.pop()
    _extend(self.stack[-1], [item])


def _extend(container: Any, items: list[Any]) -> None:
    if type(container) is not list:
        refuse(f"items for {type(container).__name__}")
    container.extend(items)


def _load_additems(self: Any) -> None:
    items = self.pop_mark()
    if type(self.stack[-1]) is not set:
        refuse(f"items for {type(self.stack[-1]).__name__}")
    _keys_checked(items)
    self.stack[-1].update(items)


def _load_frozenset(self: Any) -> None:
    items = self.pop_mark()
    _keys_checked(items)
    self.append(frozenset(items))


def _load_bytearray8(self: Any) -> None:
    """Python's own takes as much memory as the file says, before it looks whether there is as much to read."""
    size = int.from_bytes(self.read(8), "little")
    content = self.read(size)
    if len(content) < size:
        refuse(f"{size:,} bytes are announced, {len(content):,} come")
    self.append(bytearray(content))


PlainUnpickler.dispatch = {
    **PlainUnpickler.dispatch,
    pickle.SETITEM[0]: _load_setitem,
    pickle.SETITEMS[0]: _load_setitems,
    pickle.DICT[0]: _load_dict,
    pickle.APPEND[0]: _load_append,
    pickle.APPENDS[0]: _load_appends,
    pickle.ADDITEMS[0]: _load_additems,
    pickle.FROZENSET[0]: _load_frozenset,
    pickle.BYTEARRAY8[0]: _load_bytearray8,
}
