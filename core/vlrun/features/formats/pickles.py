"""Reading pickles of arrays and plain values without running anything in them."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from vlrun.errors import DataError

_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_NAMES = ("ndarray", "dtype", "scalar", "_reconstruct", "_frombuffer")


def read_pickle(content: bytes | memoryview) -> Any:
    """What is pickled in ``content``: arrays, numbers, texts, and containers of them.

    Raises:
        DataError: it names anything else, which loading it would call, or is damaged.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin-1").load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"damaged pickle: {type(error).__name__}: {error}") from error


def read_object_array(content: bytes) -> Any:
    """The dict of which ``numpy.save`` made a ``.npy`` file; raises DataError as ``read_pickle`` does."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except ValueError as error:
        raise DataError(f"damaged: {error}") from error
    if dtype != np.dtype(object) or shape != ():
        raise DataError(f"holds {dtype} of shape {shape}, expected one pickled dict")
    found = read_pickle(content[file.tell() :])
    return found.item() if isinstance(found, np.ndarray) and found.shape == () else found


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes bytes
            return _to_bytes
        if module in _MODULES and name in _NAMES:
            return super().find_class(module, name)
        raise DataError(f"refused: loading it would use {module}.{name}; such a file holds arrays alone")


def _to_bytes(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise DataError(f"damaged pickle: bytes written as {encoding!r}")
    return text.encode("latin-1")
