"""Files that are made to harm: they run nothing, reach nothing outside, and take no memory for what they lack."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlrun.engine.checkpoints import open_checkpoint
from vlrun.engine.weight_files import read_foreign, read_imported
from vlrun.errors import CheckpointError, DataError
from vlrun.features.formats import FeatureSource
from vlrun.files import read_arrays, sha256_of
from vlrun.plugins.builtin import vlrun_feature_formats

FORMATS = {found.name: found for found in vlrun_feature_formats()}


class RunsCode:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def drained(source: FeatureSource) -> None:
    for record in source.records():
        record.load()


def npz_of(path: Path, **arrays: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return path


def array_header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def object_array(value: Any) -> bytes:
    return array_header((1,), "|O") + pickle.dumps(np.array([value], object))


@pytest.mark.parametrize("name", ["w.bin", "w.pkl", "w.pth", "w.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_that_run_code_run_none(name: str, zipped: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "was-here", tmp_path / name
    torch.save({"a": torch.ones(2), "b": RunsCode(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=name):
        read_foreign(path)
    assert not marker.exists()


@pytest.mark.parametrize("read", [read_foreign, read_imported])
def test_a_bare_pickle_with_the_name_of_weights_runs_nothing(read: Callable[[Path], Any], tmp_path: Path) -> None:
    marker, path = tmp_path / "was-here", tmp_path / "w.safetensors"
    path.write_bytes(pickle.dumps(RunsCode(marker)))
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        read(path)
    assert not marker.exists()


TENSORS = ("model.safetensors", "optimizer.safetensors", "trained.safetensors", "callbacks.safetensors")
CHECKPOINT = (*TENSORS, "progress.json", "heads.json", "named_heads.json")


@pytest.mark.parametrize("name", [*CHECKPOINT, "manifest.json"])
def test_a_pickle_in_a_checkpoint_runs_nothing_though_its_hash_is_right(name: str, tmp_path: Path) -> None:
    marker, folder = tmp_path / "was-here", tmp_path / "step_00000003"
    folder.mkdir()
    model = torch.nn.Linear(2, 2)
    from safetensors.torch import save_model

    for file in TENSORS:
        save_model(model, str(folder / file))
    (folder / "progress.json").write_text('{"step": 3}')
    (folder / "heads.json").write_text("{}")
    (folder / "named_heads.json").write_text("[]")
    (folder / name).write_bytes(pickle.dumps(RunsCode(marker)))
    if name != "manifest.json":
        (folder / "manifest.json").write_text(json.dumps({file: sha256_of(folder / file) for file in CHECKPOINT}))
    with pytest.raises(CheckpointError, match=r"checkpoint .*step_00000003 is damaged"):
        read_all(folder, model)
    assert not marker.exists()


def read_all(folder: Path, model: torch.nn.Module) -> None:
    opened = open_checkpoint(folder)
    opened.head_meanings()
    opened.named_heads()
    opened.load_model(model)
    opened.load_trained(model)
    opened.callback_state()
    opened.load_optimizer(torch.optim.Adam(model.parameters()), model)


@pytest.mark.parametrize("kind", ["bbox", "x", "info"])
def test_an_npz_of_features_that_runs_code_runs_none(kind: str, tmp_path: Path) -> None:
    """What only describes the image may be a pickle in real files, and is not read."""
    marker = tmp_path / "was-here"
    arrays = {"x": np.ones((2, 4), "f4"), "bbox": np.ones((2, 4), "f4"), "image_h": np.array(9), "image_w": np.array(9)}
    contents = {}
    for name, array in {**arrays, "num_bbox": np.array(2)}.items():
        file = io.BytesIO()
        np.save(file, array)
        contents[name] = file.getvalue()
    npz_of(tmp_path / "npz" / "a.npz", **{**contents, kind: object_array(RunsCode(marker))})
    try:
        drained(FORMATS["npz"].open(tmp_path / "npz"))
    except DataError:
        assert kind != "info"
    assert not marker.exists()


def test_negatives_that_run_code_run_none(tmp_path: Path) -> None:
    marker = tmp_path / "was-here"
    with pytest.raises(DataError, match=r"n\.npz"):
        read_arrays(npz_of(tmp_path / "n.npz", facts=object_array(RunsCode(marker))), ["facts"])
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.ones(1).expand(10**12)},
        {"model": {"inner": {"a": torch.ones(1, 4).expand(10**11, 4)}}},
        {"a": torch.empty(10**12, device="meta")},
        {"a": torch.zeros(3, 3).to_sparse()},
    ],
    ids=["one value", "one row", "no values", "sparse"],
)
def test_tensors_without_their_values_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match=r"a', .* are not in the file"):
        read_foreign(tmp_path / "w.bin")


def test_rows_that_repeat_a_little_are_read(tmp_path: Path) -> None:
    content = {"position_ids": torch.arange(512).expand(1, -1), "mask": torch.ones(1).expand(64, 64)}
    torch.save(content, tmp_path / "w.bin")
    assert read_foreign(tmp_path / "w.bin")[0]["mask"].shape == (64, 64)


def test_weights_of_compressed_parts_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "w.bin")
    with (
        zipfile.ZipFile(tmp_path / "w.bin") as whole,
        zipfile.ZipFile(tmp_path / "bomb.bin", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for part in whole.infolist():
            bomb.writestr(part.filename, whole.read(part))
    with pytest.raises(CheckpointError, match="its parts are compressed"):
        read_foreign(tmp_path / "bomb.bin")


def test_arrays_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    huge = array_header((10**12, 4))
    npz_of(tmp_path / "npz" / "a.npz", x=huge, bbox=huge, image_h=huge, image_w=huge, num_bbox=huge)
    with pytest.raises(DataError, match="damaged"):
        drained(FORMATS["npz"].open(tmp_path / "npz"))
    with pytest.raises(DataError, match=r"a\.npz"):
        read_arrays(tmp_path / "npz" / "a.npz", ["x"])


def test_arrays_that_unpack_to_a_thousand_times_their_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlrun.files._MOST_UNPACKED", 100_000)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(1_000_000, np.uint8))
    with pytest.raises(DataError, match=r"bomb\.npz: .*its arrays take 1,000,128 bytes"):
        read_arrays(tmp_path / "bomb.npz", ["x"])
    np.savez_compressed(tmp_path / "table.npz", x=np.arange(1_000_000, dtype=np.int32))
    assert read_arrays(tmp_path / "table.npz", ["x"])["x"][-1] == 999_999


@pytest.mark.parametrize("way", ["a link to a file", "values in a file", "a view of a file"])
def test_hdf5_that_points_at_other_files_is_refused(way: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path, secret = tmp_path / "features.h5", tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["features"] = np.ones((3, 4), "f4")
    with h5py.File(path, "w") as file:
        group = file.create_group("1")
        group["boxes"], group["img_h"], group["img_w"] = np.ones((3, 4), "f4"), 9, 9
        if way == "a link to a file":
            group["features"] = h5py.ExternalLink(str(secret), "/features")
        elif way == "values in a file":
            group.create_dataset("features", (3, 4), "f4", external=[(str(secret), 0, 48)])
        else:
            layout = h5py.VirtualLayout((3, 4), "f4")
            layout[:] = h5py.VirtualSource(str(secret), "features", (3, 4))
            group.create_virtual_dataset("features", layout)
    with pytest.raises(DataError, match=r"refused: .*another file"):
        drained(FORMATS["volta-hdf5"].open(path))
