"""Arrays of npz files, read without numpy's layers, are those that numpy reads, or an error."""

from __future__ import annotations

import importlib
import io
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vlrun.features import compression
from vlrun.features.formats import npz
from vlrun.features.formats.npz import DAMAGE, NpzArrays

ARRAYS: dict[str, Any] = {
    "x": np.arange(4000, dtype=np.float32).reshape(40, 100),
    "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "number": np.int64(480),
    "name": np.array("COCO_val2014_000000000042.jpg"),
    "none": np.zeros((0, 4), np.float32),
    "half": np.ones(3, np.float16),
}
SAVERS = pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])


@pytest.fixture(params=["zlib-ng", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With zlib-ng, and as where it is not installed."""
    if request.param == "zlib-ng":
        pytest.importorskip("zlib_ng")
    else:
        monkeypatch.setitem(sys.modules, "zlib_ng", None)
        monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
    module = importlib.reload(compression)
    monkeypatch.setattr("vlrun.features.formats.npz.crc32", module.crc32)
    monkeypatch.setattr("vlrun.features.formats.npz.inflate", module.inflate)
    yield module
    monkeypatch.undo()
    importlib.reload(compression)


def content(save: Callable[..., None], **arrays: Any) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


@SAVERS
def test_arrays_are_those_that_numpy_reads(library: Any, save: Callable[..., None]) -> None:
    with NpzArrays(content(save, **ARRAYS)) as arrays:
        assert set(arrays) == set(ARRAYS)
        for name, expected in ARRAYS.items():
            found = arrays[name]
            np.testing.assert_array_equal(found, expected, strict=True)
            assert found.flags.aligned
            assert found.flags.writeable


@SAVERS
def test_a_changed_byte_is_found_wherever_it_is(library: Any, save: Callable[..., None]) -> None:
    whole = content(save, x=ARRAYS["x"])
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entry = archive.getinfo("x.npy")
    # the mark of the entry, its header, the numbers at their beginning, middle and end
    for place in (0, 60, 200, entry.compress_size // 2, 50 + entry.compress_size):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        with pytest.raises(DAMAGE), NpzArrays(bytes(damaged)) as arrays:
            arrays["x"]


def test_an_array_that_says_to_be_larger_than_its_file_takes_no_memory() -> None:
    header = np.lib.format.magic(1, 0) + b"\x76\x00"
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999,), }"
    array = header + text.ljust(0x76 - 1) + b"\n" + bytes(40)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", array)
    with NpzArrays(file.getvalue()) as arrays, pytest.raises(ValueError, match="'x' is cut short"):
        arrays["x"]


@SAVERS
def test_more_than_an_image_has_is_not_unpacked(save: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    packed = content(save, x=np.zeros(1000, np.float32))
    monkeypatch.setattr(npz, "MOST_BYTES", 4127)
    with NpzArrays(packed) as arrays, pytest.raises(ValueError, match=r"'x\.npy' takes 4,128 bytes"):
        arrays["x"]
    monkeypatch.setattr(npz, "MOST_BYTES", 4128)
    with NpzArrays(packed) as arrays:
        assert len(arrays["x"]) == 1000


def test_checksums_are_those_of_zlib_whatever_computes_them(library: Any) -> None:
    numbers = np.arange(100_000, dtype=np.float32)
    assert library.crc32(numbers) == zlib.crc32(numbers)
    assert library.crc32(b"second", library.crc32(memoryview(b"first "))) == zlib.crc32(b"first second")
    deflated = zlib.compressobj(wbits=-15)
    stream = deflated.compress(numbers.tobytes()) + deflated.flush()
    assert library.inflate(stream, numbers.nbytes) == numbers.tobytes()
    assert library.inflate(stream, 10) == numbers.tobytes()[:10]  # no more than was asked for
    with pytest.raises(ValueError, match="invalid"):
        library.inflate(b"\xff" * 50, 10)
