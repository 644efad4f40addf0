"""The vectors of the original detectors, and small networks made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

Vectors = Mapping[str, np.ndarray]


@pytest.fixture(scope="session")
def vectors(golden: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """Loads a file of golden/detector, whole."""
    loaded: dict[str, dict[str, np.ndarray]] = {}

    def load(name: str) -> dict[str, np.ndarray]:
        if name not in loaded:
            with np.load(golden / "detector" / f"{name}.npz", allow_pickle=False) as arrays:
                loaded[name] = dict(arrays)
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def state(vectors) -> Callable[[str], dict[str, torch.Tensor]]:
    """The weights in a file of vectors, as the original's checkpoint names them."""

    def read(name: str) -> dict[str, torch.Tensor]:
        arrays = vectors(name)
        found = {}
        for key, array in arrays.items():
            kind, _, parameter = key.partition("/")
            if kind == "state":
                found[parameter] = torch.from_numpy(array)
            elif kind == "codes":
                scale = arrays[f"scale/{parameter}"]
                scale = scale.reshape(*scale.shape, *[1] * (array.ndim - scale.ndim)) if scale.ndim else scale
                found[parameter] = torch.from_numpy(array.astype(np.float32) * scale)
        return found

    return read


@pytest.fixture(scope="session")
def weights(state, tmp_path_factory) -> Callable[[str], Path]:
    """Imported weights of a file of vectors, as a user has them."""
    from vlrun.cli import main

    folder = tmp_path_factory.mktemp("weights")
    formats = {"caffe_model": "bottom-up-caffe", "hf_model": "bottom-up-hf"}

    def imported(name: str) -> Path:
        out = folder / f"{name}.safetensors"
        if not out.exists():
            torch.save({"model": state(name)}, folder / f"{name}.pth")
            status = main(["weights", "import", "--from", formats[name], str(folder / f"{name}.pth"), str(out)])
            assert status == 0
        return out

    return imported
