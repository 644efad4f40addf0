"""Reading pickles of arrays: what makes an array of the file's bytes is done here, and nothing else can be named."""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from vlrun.errors import DataError
from vlrun.foreign.pickles import PlainUnpickler, RefusedNameError, loaded, refuse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_KINDS = re.compile(r"[<>=|]?(b1?|[iu][1248]|f[248]|c8|c16|[SU]\d{1,6}|O8?)")


def read_pickle(content: bytes | memoryview) -> Any:
    """What is pickled in ``content``: arrays, numbers, texts, and containers of them.

    Raises:
        DataError: it names anything else, which loading it would call, or is damaged.
    """
    try:
        return loaded(_ArrayUnpickler(io.BytesIO(content), encoding="latin-1"), len(content))
    except UnicodeDecodeError as error:
        raise DataError(f"damaged pickle: {error}") from error


def read_object_array(content: bytes) -> Any:
    """The dict of which ``numpy.save`` made a ``.npy`` file; raises DataError as ``read_pickle`` does."""
    import numpy as np

    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # the header is a Python literal, which can be damaged in any way
        raise DataError(f"damaged: {error}") from error
    if dtype != np.dtype(object) or shape != ():
        raise DataError(f"holds {dtype} of shape {shape}, expected one pickled dict")
    found = read_pickle(content[file.tell() :])
    return found.item() if isinstance(found, np.ndarray) and found.shape == () else found


class _Type:
    """The type of an array, as far as it has been read."""

    def __init__(self, kind: Any) -> None:
        text = str(kind)
        if not _KINDS.fullmatch(text):
            raise DataError(f"refused: an array of {text[:40]!r}; such a file holds numbers and texts")
        self.kind = text

    def build(self, state: Any) -> _Type:
        """Takes the order of the bytes; whatever has fields or parts is refused."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise DataError("refused: an array with fields; such a file holds numbers and texts")
        if state[1] in ("<", ">"):
            self.kind = state[1] + self.kind.lstrip("<>=|")
        return self

    def dtype(self) -> np.dtype[Any]:
        """The type itself."""
        import numpy as np

        return np.dtype(self.kind)


class _Array:
    """An array that has been announced; the file says later what is in it."""

    def __init__(self) -> None:
        self.places: list[int] = []

    def build(self, state: Any) -> NDArray[Any]:
        """The array that ``numpy.ndarray.__setstate__`` would make."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Type):
            refuse("an array without shape, type and values")
        _, shape, kind, is_fortran, values = state
        return _array(values, kind, shape, "F" if is_fortran else "C")


def _array(values: Any, kind: _Type, shape: Any, order: str) -> NDArray[Any]:
    import numpy as np

    dtype = kind.dtype()
    if not isinstance(shape, tuple) or not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        refuse(f"an array of shape {str(shape)[:40]}")
    if len(shape) > 32 or order not in ("C", "F"):
        refuse("an array of more than 32 axes")
    count = math.prod(shape)
    if dtype.kind == "O":
        if not isinstance(values, list) or len(values) != count:
            refuse(f"an array of {count:,} objects without these")
        flat = np.empty(count, object)
        for place, value in enumerate(values):
            flat[place] = value
        return flat.reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]
    content = values.encode("latin-1") if isinstance(values, str) else values
    if not isinstance(content, bytes | bytearray) or len(content) != count * dtype.itemsize:
        refuse(f"an array of shape {shape} that has not its {count * dtype.itemsize:,} bytes")
    made = np.frombuffer(content, dtype).reshape(shape, order=order)  # type: ignore[call-overload]
    return made.astype(dtype.newbyteorder("="))  # type: ignore[no-any-return]


def _reconstruct(subtype: Any, shape: Any, kind: Any) -> _Array:
    return _Array()


def _make_type(kind: Any, align: Any = False, copy: Any = False) -> _Type:
    return _Type(kind)


def _scalar(kind: Any, value: Any) -> Any:
    if not isinstance(kind, _Type) or kind.dtype().kind == "O":
        refuse("a number without a type")
    return _array(value, kind, (), "C")[()]


def _from_buffer(buffer: Any, kind: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    if not isinstance(kind, _Type) or kind.dtype().kind == "O":
        refuse("an array without a type")
    return _array(buffer, kind, shape, order)


def _to_bytes(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        refuse(f"bytes written as {encoding!r}")
    return text.encode("latin-1")


_CALLS: dict[str, Callable[..., Any]] = {
    "dtype": _make_type,
    "scalar": _scalar,
    "_reconstruct": _reconstruct,
    "_frombuffer": _from_buffer,
}


def _array_class() -> NoReturn:
    """Stands for ``numpy.ndarray`` where the file names it; nothing calls it."""
    refuse("an array of nothing")


class _ArrayUnpickler(PlainUnpickler):
    """Reads plain values and arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands in for the names that arrays use."""
        if (module, name) == ("_codecs", "encode"):
            return _to_bytes
        if module in _MODULES and name in _CALLS:
            return _CALLS[name]
        if module in _MODULES and name == "ndarray":
            return _array_class
        raise RefusedNameError(f"{module}.{name}")


def _load_reduce(self: Any) -> None:
    arguments = self.stack.pop()
    function = self.stack[-1]
    if not isinstance(arguments, tuple) or function not in (*_CALLS.values(), _to_bytes):
        refuse("a call of something that is no function")
    self.stack[-1] = function(*arguments)


def _load_build(self: Any) -> None:
    state = self.stack.pop()
    announced = self.stack[-1]
    if not isinstance(announced, _Array | _Type):
        refuse(f"a state for {type(announced).__name__}")
    made = announced.build(state)
    self.stack[-1] = made
    if isinstance(announced, _Array):
        for place in announced.places:  # what refers to it from now on means the array
            self.memo[place] = made


def _load_memoize(self: Any) -> None:
    _remember(self, len(self.memo))


def _load_put(self: Any) -> None:
    _remember(self, int(self.readline()[:-1]))


def _load_binput(self: Any) -> None:
    _remember(self, self.read(1)[0])


def _load_long_binput(self: Any) -> None:
    _remember(self, int.from_bytes(self.read(4), "little"))


def _remember(self: Any, place: int) -> None:
    value = self.stack[-1]
    self.memo[place] = value
    if isinstance(value, _Array):
        value.places.append(place)


_ArrayUnpickler.dispatch = {
    **PlainUnpickler.dispatch,
    pickle.REDUCE[0]: _load_reduce,
    pickle.BUILD[0]: _load_build,
    pickle.MEMOIZE[0]: _load_memoize,
    pickle.PUT[0]: _load_put,
    pickle.BINPUT[0]: _load_binput,
    pickle.LONG_BINPUT[0]: _load_long_binput,
}
