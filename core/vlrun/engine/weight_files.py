"""Files of weights: importing foreign checkpoints once, reading and writing ours, saying what a file contains.

Ours are .safetensors files: tensors under the backbone's own names, facts about their origin in the header, and beside
them a .json manifest with the same facts and the file's hash. Reading them runs no code.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vlrun.data.leaks import describe_declared
from vlrun.errors import CheckpointError
from vlrun.files import atomic_write, sha256_of, write_json
from vlrun.plugins.entries import WeightFormat
from vlrun.reporting.tables import TextTable

SUFFIX = ".safetensors"
HEADER_KEY = "vlrun"
"""The header holds all facts as JSON under this one key: several keys would be written in a random order."""


@dataclass(frozen=True)
class ImportReport:
    """What an import wrote, and what it did not.

    Attributes:
        out, manifest: the files written.
        modules: tensors per module.
        parameters: number of values.
        left_behind: top-level entries of the source that did not come over, or not wholly, with counts of tensors.
        seen: the images that the weights have seen, in a few words.
    """

    out: Path
    manifest: Path
    modules: Mapping[str, int]
    parameters: int
    left_behind: tuple[str, ...]
    seen: str = ""


@dataclass(frozen=True)
class ModuleSummary:
    """The tensors under one first name component."""

    name: str
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class WeightSummary:
    """What a file of weights contains.

    Attributes:
        path: the file; bytes: its size.
        modules: its tensors, grouped.
        metadata: where imported weights come from; of another .safetensors file, its header.
        other: entries that hold no tensor, such as an epoch counter, as text.
        formats: installed weight formats that can read it; empty for a file that is ours already.
    """

    path: str
    bytes: int
    modules: tuple[ModuleSummary, ...]
    metadata: Mapping[str, Any]
    other: Mapping[str, str]
    formats: tuple[str, ...]

    @property
    def is_imported(self) -> bool:
        """Whether it is a file of ours, as an import writes it."""
        return "backbone" in self.metadata

    def lines(self) -> list[str]:
        """A table with one row per module and a total, and the facts below it, for the console."""
        rows = [
            [module.name, str(module.tensors), f"{module.parameters:,}", ", ".join(module.dtypes)]
            for module in self.modules
        ]
        tensors = sum(module.tensors for module in self.modules)
        parameters = sum(module.parameters for module in self.modules)
        rows.append(["total", str(tensors), f"{parameters:,}", ""])
        columns = ["module", "tensors", "parameters", "types"]
        lines = [f"{self.path}: {self.bytes:,} bytes", *TextTable(columns, rows, columns[1:]).as_lines()]
        facts = {**self.metadata, "heads": ", ".join(self.metadata.get("heads", {})), **self.other}
        if "pretraining_sets" in facts:
            facts["pretraining_sets"] = describe_declared(facts["pretraining_sets"])
        lines += [f"{key}: {value}" for key, value in facts.items() if value]
        if not self.is_imported:
            lines.append(f"formats that read it: {', '.join(self.formats) or 'none of those installed'}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """All of it, for ``--json``."""
        return asdict(self)


def import_weights(
    source: Path,
    out: Path,
    weight_format: WeightFormat,
    *,
    vocabulary_hash: str | None = None,
    pretraining_sets: Sequence[str] | None = None,
    heads: Mapping[str, Mapping[str, Any]] | None = None,
) -> ImportReport:
    """Converts a foreign checkpoint into ``out`` (.safetensors) and its manifest (.json), both written atomically.

    Args:
        source: the authors' file: what ``torch.save`` wrote, or .safetensors.
        vocabulary_hash: of the vocabulary that the weights were trained with; compared whenever they are loaded.
        pretraining_sets: images that the weights have seen, as ``vlrun.data.declared`` writes it; compared with the
            evaluation splits of every run that starts from them. None takes what the format says of all such files.
        heads: what the numbers of a head in ``source`` mean, by its neutral name, as ``Task.head_meaning`` says it.

    Raises:
        CheckpointError: ``source`` holds more than tensors and plain containers, is damaged, or is of another layout.
    """
    check_suffix(out)
    content = weight_format.resolve("reader")(source) if weight_format.reader else read_foreign(source)[0]
    try:
        translated = weight_format.translate(content)
    except CheckpointError as error:
        raise CheckpointError([f"{source}: {problem}" for problem in error.problems]) from error
    left_behind = () if weight_format.complete else _left_behind(content, translated)
    tensors = _own_memory(translated)
    metadata = {
        "backbone": weight_format.backbone,
        "format": weight_format.name,
        "source": source.name,
        "source_sha256": sha256_of(source),
        "vocabulary_hash": vocabulary_hash,
        "pretraining_sets": list(weight_format.seen if pretraining_sets is None else pretraining_sets),
        "partial": weight_format.partial,
        "heads": {name: dict(meaning) for name, meaning in (heads or {}).items()},
    }
    return write_imported(out, tensors, metadata, left_behind)


def write_imported(
    out: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], left_behind: Sequence[str]
) -> ImportReport:
    """Writes ``tensors``, whatever they come from, as imported weights with their manifest, both atomically.

    Args:
        metadata: ``backbone``, ``format``, ``source`` and so on, as ``import_weights`` records them.

    Raises:
        CheckpointError: ``out`` has another suffix.
    """
    check_suffix(out)
    metadata = {**metadata, "imported_with": f"vlrun {version('vlrun')}"}
    with atomic_write(out, "wb") as file:
        file.write(save(dict(tensors), {HEADER_KEY: json.dumps(metadata)}))
    modules = Counter(map(module_of, tensors))
    parameters = sum(tensor.numel() for tensor in tensors.values())
    manifest = out.with_suffix(".json")
    write_json(
        manifest,
        {
            **metadata,
            "file": out.name,
            "sha256": sha256_of(out),
            "tensors": len(tensors),
            "parameters": parameters,
            "modules": dict(modules),
            "left_behind": list(left_behind),
        },
    )
    seen = describe_declared(metadata.get("pretraining_sets", []))
    return ImportReport(out, manifest, modules, parameters, tuple(left_behind), seen)


def check_suffix(out: Path) -> None:
    """Refuses a file name without the suffix of imported weights.

    Raises:
        CheckpointError: ``out`` has another suffix.
    """
    if out.suffix != SUFFIX:
        raise CheckpointError(f"{out}: imported weights are a {SUFFIX} file; name it so")


def inspect_weights(path: Path, formats: Mapping[str, WeightFormat]) -> WeightSummary:
    """What ``path`` contains: one of our files, or anything that ``import_weights`` can open.

    Raises:
        CheckpointError: the file cannot be read safely.
    """
    content, metadata = read_foreign(path)
    grouped: dict[str, list[Tensor]] = {}
    other = {}
    for name, value in _leaves(content):
        if isinstance(value, Tensor):
            grouped.setdefault(module_of(name), []).append(value)
        elif "." not in name:
            other[name] = str(value)
    modules = tuple(
        ModuleSummary(
            name,
            len(tensors),
            sum(tensor.numel() for tensor in tensors),
            tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})),
        )
        for name, tensors in grouped.items()
    )
    readable = () if "backbone" in metadata else tuple(name for name, kind in formats.items() if _reads(kind, content))
    return WeightSummary(str(path), path.stat().st_size, modules, metadata, other, readable)


def read_foreign(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Content and header of a file of weights, on the CPU, without running any code in it.

    Raises:
        CheckpointError: it is missing, damaged, or holds more than tensors and plain containers.
    """
    if path.suffix == SUFFIX:
        return read_imported(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because it holds more than tensors and plain containers, or is no checkpoint at all. "
            "Reading such a file could run code; if you trust it, load it where it was made and save its tensors alone"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read, it may be damaged: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dict of tensors or state dicts, found {type(content).__name__}")
    return content, {}


def read_imported(path: Path, *, header_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (none with ``header_only``) and metadata of a .safetensors file.

    Raises:
        CheckpointError: it is missing, damaged, or another kind of file.
    """
    if path.suffix != SUFFIX:
        raise CheckpointError(
            f"{path}: only imported weights ({SUFFIX}) can be loaded; convert it once: "
            f"runner weights import --from FORMAT {path} {path.with_suffix(SUFFIX)}"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            metadata = json.loads(header[HEADER_KEY]) if HEADER_KEY in header else header
            names = () if header_only else file.keys()
            return {name: file.get_tensor(name) for name in names}, metadata
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read, it may be damaged: {_first_line(error)}") from error


def _reads(weight_format: WeightFormat, content: dict[str, Any]) -> bool:
    try:
        return bool(weight_format.translate(content))
    except CheckpointError:
        return False


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no storage, as .safetensors wants them."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        copy = tensor.clone(memory_format=torch.contiguous_format) if storage in seen else tensor.contiguous()
        result[name] = copy
        seen.add(storage)
    return result


def _left_behind(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The entries of ``content`` that hold no tensor, or tensors whose memory is in none of ``tensors``.

    An entry is a top-level key; in a file of tensors alone, what their names have in common up to a first number.
    """
    kept = {tensor.data_ptr(): tensor.numel() for tensor in tensors.values()}
    inside: Counter[str] = Counter()
    left: Counter[str] = Counter()
    entries: dict[str, None] = {}
    for key, value in content.items():
        entry = _entry_of(key) if isinstance(value, Tensor) else str(key)
        leaves = [(name, leaf) for name, leaf in _leaves({key: value}) if isinstance(leaf, Tensor)]
        inside[entry] += len(leaves)
        if not leaves:
            entries[str(key)] = None
        for name, tensor in leaves:
            if kept.get(tensor.data_ptr()) == tensor.numel():
                continue
            start = tensor.data_ptr()
            if any(start <= place < start + tensor.nbytes for place in kept):
                entries[f"{name} (all but a part of it)"] = None
            else:
                left[entry] += 1
                entries[entry] = None
    return tuple(f"{entry} ({left[entry]} of {inside[entry]} tensors)" if left[entry] else entry for entry in entries)


def _entry_of(name: str) -> str:
    """A name up to its first number, such as ``bert.encoder.layer.9``; without one, its first component."""
    parts = str(name).split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: number + 1])


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is not a container, with its dotted path."""
    items: Any = None
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    if items is None:
        yield name, value
        return
    for key, item in items:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def module_of(name: str) -> str:
    """The module that a tensor is counted under: the first component of its name."""
    return name.split(".", 1)[0]


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
