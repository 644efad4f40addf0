"""What others wrote is read within limits: JSON, YAML and pickles that are deep, huge, shared, or no values at all."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlrun.data.json_stream import items_of, list_items
from vlrun.errors import DataError
from vlrun.files import read_json
from vlrun.foreign.json import MAX_DEPTH, Nesting, parse_json
from vlrun.foreign.pickled_arrays import read_object_array, read_pickle
from vlrun.foreign.pickles import read_plain
from vlrun.foreign.yaml import dump_yaml, parse_mapping, parse_value, parse_yaml

# --- JSON ---

WRONG_JSON = {
    "deep": (b"[" * 100_000, "nested too deeply"),
    "deeper than Python's own limit": (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "nested too deeply"),
    "just too deep": (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested too deeply"),
    "6,000 digits": (b"[" + b"9" * 6_000 + b"]", "a number of 6,000 digits"),
    "65 bits": (b"[18446744073709551616]", "a number of 20 digits"),
    "negative": (b"-9223372036854775809", "a number of 19 digits"),
    "larger than a double": (b"1e999", "too large"),
    "larger than a double, written out": (b"9" * 400 + b".0", "too large"),
    "NaN": (b"[NaN]", "NaN is no number"),
    "-Infinity": (b"-Infinity", "-Infinity is no number"),
    "half a character": (b'"\\ud83d"', "half a character"),
    "its second half": (b'"\\udc00"', "half a character"),
    "half a character as bytes": (b'"\xed\xa0\x80"', "can't decode"),
    "no UTF-8": (b'"\xff"', "can't decode"),
    "cut off": (b'{"a": [1, 2', "Expecting"),
}


@pytest.mark.parametrize(("text", "message"), WRONG_JSON.values(), ids=WRONG_JSON)
def test_json_that_a_program_cannot_carry_is_refused(text: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)
    for name, content in (("a.json", text), ("a.json.gz", gzip.compress(text))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_json(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b'"' + b"[" * 500 + b'"',
        b'["\\\\", "\\"[[[", "' + b"{" * 500 + b'\\\\"]',
        b"[" + b",".join([b"[]"] * 500) + b"]",
        b'"\\ud83d\\ude00 \\\\ud800 \\u00e9"',
        b"[18446744073709551615, -9223372036854775808, 1e-999, 0.12345678901234567890123]",
        b'{"12345678901234567890123": "1e999"}',
        "\ufeff[1]".encode(),
        "[1]".encode("utf-16"),
    ],
    ids=range(9),
)
def test_all_other_json_reads_as_ever(text: bytes) -> None:
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_nesting_is_the_same_however_the_text_is_cut(size: int) -> None:
    inside = '"\\\\", "a\\"[[", "]]\\\\\\"{{", [{"b": "c\\\\"}]'
    text = ("[" * (MAX_DEPTH - 2) + inside).encode()
    nesting = Nesting()
    for start in range(0, len(text), size):
        nesting.feed(text[start : start + size])
    nesting.feed(b"[[")
    with pytest.raises(ValueError, match="nested too deeply"):
        nesting.feed(b"[")


def test_what_python_itself_writes_is_read_where_it_may_be() -> None:
    assert parse_json("[Infinity]", allow_nan=True) == [float("inf")]


@pytest.mark.parametrize("text", [b"[" * 1_000_000, b'{"rows": ' + b"[" * 1_000_000, b'[{"a": ' * 200_000])
def test_a_huge_file_without_an_end_to_its_brackets_takes_no_memory(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"a\.json: not readable JSON: nested too deeply"):
        list(items_of(path, "rows", "rows") if text.startswith(b"{") else list_items(path, "a list"))


# --- YAML ---

BILLION = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(12)
)
WRONG_YAML = {
    "a bomb of aliases": (BILLION, "too large or too deep"),
    "deep lists": ("a: " + "[" * 100_000, "too large or too deep"),
    "deep mappings": ("{a: " * 5_000, "too large or too deep"),
    "deep by indentation": ("\n".join(" " * n + "a:" for n in range(500)), "too large or too deep"),
    "wide": ("a: [" + "1, " * 20_001 + "]", "too large or too deep"),
    "6,000 digits": ("a: " + "9" * 6_000, "a number of 6,000 digits"),
    "hexadecimal digits": ("a: 0x" + "f" * 6_000, "a number of 6,002 digits"),
    "an alias of itself": ("a: &a [*a]", "refers to itself"),
    "a tag that runs code": ("a: !!python/object/apply:os.system [true]", "not allowed"),
    "a set": ("a: !!set {b}", "not allowed"),
    "a tag of its own": ("a: !secret x", "not allowed"),
    "a control character": ("a: \x1b]0;x\x07", "not valid YAML"),
    "a key of keys": ("? {a: 1}\n: 2", "plain word"),
    "long": ("# " + "x" * 10_000_000, "no experiment is so long"),
    "twice": ("a: 1\na: 2", "duplicate key"),
    "half a character": ('a: "\\ud800"', "half a character"),
    "half a character as a key": ('"\\udc00": 1', "half a character"),
    "two documents": ("a: 1\n--- \nb: 2", "not valid YAML"),
}


@pytest.mark.parametrize(("text", "message"), WRONG_YAML.values(), ids=WRONG_YAML)
def test_yaml_that_is_none_of_ours_is_a_problem_with_its_line(text: str, message: str) -> None:
    started = time.process_time()
    located = parse_yaml(text)
    assert located.problems
    assert any(re.search(message, problem) for _, problem in located.problems), located.problems
    assert parse_mapping(text) == {}
    assert time.process_time() - started < 20


def test_a_value_of_the_command_line_that_is_no_yaml_is_text() -> None:
    assert parse_value("9" * 6_000) == "9" * 6_000
    assert parse_value("[" * 5_000) == "[" * 5_000
    assert parse_value("999999999999999999") == 10**18 - 1


def test_text_that_looks_like_a_long_number_survives_the_way_back() -> None:
    assert parse_yaml(dump_yaml({"a": "9" * 50})).data == {"a": "9" * 50}


# --- pickles ---


def shared(levels: int) -> bytes:
    """A tuple of two of the level below, which is there once."""
    return b")" + b"q\x00h\x00\x86" * levels


HOSTILE = {
    "a place in the memo far away": b"\x80\x02]r\xff\xff\xff\x7fK\x01a.",
    "tuples of tuples": b"\x80\x02" + shared(60) + b".",
    "lists of lists": b"]" + b"q\x00]h\x00ah\x00a" * 60 + b".",
    "a key that takes for ever to hash": b"\x80\x02}" + shared(60) + b"K\x01s.",
    "an item that does": b"\x80\x04\x8f(" + shared(60) + b"\x90.",
    "a frozen set that does": b"\x80\x04(" + shared(60) + b"\x91.",
    "deep": b"]" * 100_000 + b"a" * 99_999 + b".",
    "itself": b"]q\x00h\x00a.",
    "a number of 6,000 digits": b"I" + b"9" * 6_000 + b"\n.",
    "a number of 800,000 bits": b"\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000 + b".",
    "half a character": b"X\x03\x00\x00\x00\xed\xa0\x80.",
    "a text that is not there": b"\x8d" + struct.pack("<Q", 1 << 62) + b"abc.",
    "bytes that are not there": b"\x96" + struct.pack("<Q", 1 << 36) + b"abc.",
    "a name": b"cos\nsystem\n(S'true'\ntR.",
    "a name on the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "an instance": b"(S'true'\nios\nsystem\n.",
    "an extension": b"\x82\x01.",
    "a persistent name": b"Pid\n.",
    "a state for a list": b"]}b.",
    "items for a dict": b"}K\x01a.",
    "nothing": b"",
    "a stop": b".",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("read", [read_plain, read_pickle])
def test_a_hostile_pickle_is_refused_at_once(name: str, read: Any) -> None:
    started = time.process_time()
    if name == "a place in the memo far away":
        assert read(HOSTILE[name]) == [1]  # a dictionary keeps the memo, so it is a pickle as any other
    else:
        with pytest.raises(DataError, match=r"refused|damaged pickle"):
            read(HOSTILE[name])
    assert time.process_time() - started < 20


RECONSTRUCT = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
FLOATS = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR"
HOSTILE_ARRAYS = {
    "memory for nothing": b"cnumpy\nndarray\n(I999999999999\ntR.",
    "a shape without bytes": RECONSTRUCT + b"(K\x01(M\xff\xffM\xff\xffM\xff\xfft" + FLOATS + b"\x89U\x04abcdtb.",
    "a negative shape": RECONSTRUCT + b"(K\x01(J\xff\xff\xff\xfft" + FLOATS + b"\x89U\x04abcdtb.",
    "a shape of texts": RECONSTRUCT + b"(K\x01(U\x011t" + FLOATS + b"\x89U\x04abcdtb.",
    "no state": RECONSTRUCT + b".",
    "fields": b"cnumpy\ndtype\n(U\x02V8K\x00K\x01tR.",
    "fields as a state": b"\x80\x02" + FLOATS + b"(K\x03U\x01<N(U\x01at}NNtb.",
    "objects out of bytes": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'12345678'\ntR.",
    "another function of numpy": b"cnumpy\nload\n(S'x'\ntR.",
    "a new default of ours": b"c_codecs\nencode\n(N}S'__defaults__'\n(S'rot13'\ntstb.",
    "another codec": b"c_codecs\nencode\n(Va\nVrot13\ntR.",
    "a function as a value": b"c_codecs\nencode\n.",
}


@pytest.mark.parametrize("name", HOSTILE_ARRAYS)
def test_a_hostile_array_is_refused_at_once(name: str) -> None:
    with pytest.raises(DataError, match=r"refused|damaged pickle"):
        read_pickle(HOSTILE_ARRAYS[name])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_are_as_they_were(protocol: int) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "matrix": rng.random((3, 4), dtype=np.float32),
        "columns": np.asfortranarray(rng.random((2, 3))),
        "big-endian": np.arange(3, dtype=">i4"),
        "texts": np.array(["a", "bcd"]),
        "bytes": np.array([b"a", b"bcd"]),
        "objects": np.array([1, "x", None, {"y": (2.5,)}], object),
        "truth": np.array([[True, False]]),
        "number": np.float32(1.5),
    }
    arrays["again"] = arrays["matrix"]
    found = read_pickle(pickle.dumps(arrays, protocol=protocol))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert np.asarray(found[name]).dtype == np.asarray(array).dtype.newbyteorder("="), name
    assert found["again"] is found["matrix"]
    assert found["matrix"].flags.writeable


def test_the_dict_of_an_npy_file_is_read() -> None:
    file = io.BytesIO()
    np.save(file, {"bbox": np.ones((2, 4), np.float32), "image_id": 7}, allow_pickle=True)
    found = read_object_array(file.getvalue())
    assert found["image_id"] == 7
    assert found["bbox"].tolist() == [[1, 1, 1, 1]] * 2
