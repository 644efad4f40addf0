"""What readers of region features are fuzzed with."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import foreign
import numpy as np
from refusals import by_all, by_any

from vlrun import RegionFeatures
from vlrun.errors import DataError
from vlrun.features.formats import FeatureSource
from vlrun.features.formats.fields import regions_from
from vlrun.features.formats.uniter import UniterLmdb
from vlrun.features.layout import (
    DTYPES,
    Manifest,
    decode,
    decode_ids,
    decode_manifest,
    encode,
    encode_ids,
    encode_manifest,
)
from vlrun.foreign.pickled_arrays import read_pickle
from vlrun.plugins.builtin import vlrun_feature_formats

FORMATS = {found.name: found for found in vlrun_feature_formats()}


def regions(name: str = "COCO_val2014_000000000042", count: int = 3) -> RegionFeatures:
    rng = np.random.default_rng(count)
    corners = rng.random((count, 4), dtype=np.float32) * 50
    corners[:, 2:] += corners[:, :2]
    return RegionFeatures(
        name,
        rng.random((count, 4), dtype=np.float32),
        corners,
        120,
        150,
        class_ids=np.arange(count, dtype=np.int32),
        attribute_ids=np.arange(count, dtype=np.int32),
        class_scores=rng.random(count, dtype=np.float32),
        attribute_scores=rng.random(count, dtype=np.float32),
    )


def drained(source: FeatureSource) -> None:
    """Reads all records; what is wrong with one is a DataError of its own."""
    by_all(record.load for record in source.records())


def nothing_beside(folder: Path) -> None:
    pass


def of_format(name: str, file: str, beside: Callable[[Path], object] = nothing_beside) -> Any:
    return partial(_read_format, name, file, beside)


def _read_format(name: str, file: str, beside: Callable[[Path], object], content: bytes, folder: Path) -> None:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    beside(folder)
    top = folder / Path(file).parts[0]
    if not FORMATS[name].recognises(top):
        raise DataError("another format")
    drained(FORMATS[name].open(top))


def pickled_seeds(folder: Path) -> list[bytes]:
    image = regions("581857")
    return [
        pickle.dumps(kind(image), protocol=protocol)
        for kind in (foreign.vilbert, foreign.volta)
        for protocol in (0, 2, 4)
    ]


def read_pickled(content: bytes, folder: Path) -> None:
    values = read_pickle(content)
    if isinstance(values, dict):
        regions_from("581857", {str(name): value for name, value in values.items()})


def read_uniter(content: bytes, folder: Path) -> None:
    reader = UniterLmdb.__new__(UniterLmdb)
    reader.__dict__["_sizes"] = {"a": (120, 150)}
    reader.decode("a", reader.read_value(content))


def store_seeds(folder: Path) -> list[bytes]:
    whole = regions()
    few = RegionFeatures("1", whole.features, whole.boxes, whole.height, whole.width)
    manifest = Manifest(
        count=1, min_regions=3, max_regions=3, feature_width=4, dtype="float16", extractor="a", source_format="npz",
        source="a", source_signature="s", fingerprint="0" * 64, created="then",
    )  # fmt: skip
    return [
        *(encode(image, dtype) for image in (whole, few) for dtype in DTYPES),
        encode_manifest(manifest),
        encode_ids("1"),
    ]


def read_stored(content: bytes, folder: Path) -> None:
    def read(decoded: Callable[[bytes], object]) -> None:
        try:
            decoded(content)
        except ValueError as error:  # of the reader alone, who names the file
            raise DataError(str(error)) from error

    by_any(partial(read, decoded) for decoded in (partial(decode, "1"), decode_manifest, decode_ids))


def uniter_seeds(folder: Path) -> list[bytes]:
    values = foreign.uniter_values(regions())
    return [foreign.as_npz(values), foreign.as_msgpack(values), foreign.as_lz4(values)]


def npz_seeds(folder: Path) -> list[bytes]:
    image, written = regions(), []
    for save_npz in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save_npz(
            file, x=image.features.T, bbox=image.boxes, num_bbox=3, image_h=120, image_w=150, objects=image.class_ids,
            info=np.array({"a": 1}, object),
        )  # fmt: skip
        written.append(file.getvalue())
    return written


def tsv_rows(columns: int) -> list[bytes]:
    image = regions()
    text = foreign.text
    if columns == 6:
        cells = ["42", "150", "120", "3", text(image.boxes), text(image.features)]
    else:
        cells = [
            image.image_id, "120", "150", text(image.class_ids, "<i8"), text(image.class_scores),
            text(image.attribute_ids, "<i8"), text(image.attribute_scores), "3", text(image.boxes),
            text(image.features),
        ]  # fmt: skip
    row = "\t".join(cells).encode()
    return [row + b"\n" + row.replace(b"42", b"43", 1) + b"\n"]


def sizes_beside(folder: Path) -> None:
    (folder / "hw.tsv").write_text(foreign.vinvl_sizes(regions()))


def vinvl_seeds(folder: Path) -> list[bytes]:
    image = regions()
    kinds = (foreign.vinvl_three_columns, foreign.vinvl_json, foreign.vinvl_predictions, foreign.vinvl_named)
    return [kind(image).encode() for kind in kinds]


def rosita_beside(folder: Path) -> None:
    if not (folder / "imgfeat.lineidx").exists():
        (folder / "imgfeat.lineidx").write_text("0\n")
    if not (folder / "img_feat_offset_map.json").exists():
        (folder / "img_feat_offset_map.json").write_text(json.dumps({"COCO_val2014_000000000042": 0}))


def volta_seeds(folder: Path) -> list[bytes]:
    return [foreign.volta_hdf5(folder / "a.h5", [regions(), regions("2", 2)]).read_bytes()]


def gqa_seeds(folder: Path) -> list[bytes]:
    return [(foreign.gqa(folder / "gqa", [regions("1")]) / "gqa_objects_0.h5").read_bytes()]


def gqa_info_beside(folder: Path) -> None:
    entry = {"file": 0, "idx": 0, "objectsNum": 3, "width": 150, "height": 120}
    (folder / "gqa_objects_info.json").write_text(json.dumps({"1": entry}))


class Apart:
    """Reads in a process of its own: a library in C that crashes or hangs must not take the fuzzing with it."""

    def __init__(self, read: Callable[[bytes, Path], object], seconds: float = 10) -> None:
        self._read, self._seconds = read, seconds
        self._process: multiprocessing.process.BaseProcess | None = None

    def __call__(self, content: bytes, folder: Path) -> None:
        if self._process is None:
            context = multiprocessing.get_context("fork")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_answer, args=(theirs, self._read), daemon=True)
            self._process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
        self._pipe.send((content, folder))
        try:
            if not self._pipe.poll(self._seconds):
                raise EOFError
            error = self._pipe.recv()
        except EOFError as gone:
            raise AssertionError(f"the reader crashed or hung, status {self.close()}") from gone
        if error is not None:
            raise error

    def close(self) -> int | None:
        """Ends the process, if there is one; returns its status."""
        if self._process is None:
            return None
        self._process.kill()
        self._process.join()
        status, self._process = self._process.exitcode, None
        return status


def _answer(pipe: Connection, read: Callable[[bytes, Path], object]) -> None:
    while True:
        content, folder = pipe.recv()
        try:
            read(content, folder)
            pipe.send(None)
        except DataError as error:
            pipe.send(DataError(str(error)))
        except Exception as error:
            pipe.send(AssertionError(repr(error)))


def mmf_info(folder: Path) -> list[bytes]:
    made = foreign.mmf_folder(folder / "mmf", [regions()])
    return [next(made.glob("*_info.npy")).read_bytes()]


def read_mmf(content: bytes, folder: Path) -> None:
    source = folder / "mmf"
    if not source.exists():
        foreign.mmf_folder(source, [regions()])
    next(source.glob("*_info.npy")).write_bytes(content)
    drained(FORMATS["mmf-npy"].open(source))
