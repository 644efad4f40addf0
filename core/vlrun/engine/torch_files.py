"""Files of ``torch.save`` that somebody else made: nothing in them is run, and the values must be there."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlrun.errors import CheckpointError

_SMALL = 1 << 20  # bytes; a short row that is repeated does no harm


def load_torch_file(path: Path) -> dict[str, Any]:
    """The dict of tensors and plain containers in a file, on the CPU.

    Raises:
        CheckpointError: it is missing, damaged, holds something else, or tensors without their values.
    """
    try:
        _refuse_compressed(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because it holds more than tensors and plain containers, or is no checkpoint at all. "
            "Reading such a file could run code; if you trust it, load it where it was made and save its tensors alone"
        ) from error
    except Exception as error:  # of a damaged file torch may raise anything, as struct.error or AssertionError
        first = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{path}: cannot be read, it may be damaged: {first}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dict of tensors or state dicts, found {type(content).__name__}")
    _refuse_hollow(path, content)
    return content


def _refuse_compressed(path: Path) -> None:
    """PyTorch compresses nothing, and a small archive of somebody else's may fill all memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise CheckpointError(f"{path}: refused, because its parts are compressed, which torch.save never does")


def _refuse_hollow(path: Path, content: Mapping[Any, Any]) -> None:
    """Refuses tensors that have more values than the file: one value for all of a trillion, or none."""
    waiting: list[tuple[str, Any, int]] = [(str(name), value, 0) for name, value in content.items()]
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, Mapping) and depth < 20:
            waiting += [(f"{name}.{key}", inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, Tensor):
            is_whole = value.layout is torch.strided and value.device.type == "cpu"
            if not is_whole or value.numel() * value.element_size() > max(value.untyped_storage().nbytes(), _SMALL):
                raise CheckpointError(f"{path}: the values of '{name}', {tuple(value.shape)}, are not in the file")
