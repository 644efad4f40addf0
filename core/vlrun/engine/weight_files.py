"""Files of weights: importing foreign checkpoints once, reading and writing ours.

Ours are .safetensors files: tensors under the backbone's own names, facts about their origin in the header, and beside
them a .json manifest with the same facts and the file's hash. Reading them runs no code.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vlrun.config.preflight import HEADER_KEY, check_is_imported, recorded_facts
from vlrun.config.preflight import WEIGHTS_SUFFIX as SUFFIX
from vlrun.data.leaks import describe_declared
from vlrun.engine.answer_lists import answer_remarks
from vlrun.engine.forward_check import described
from vlrun.engine.head_facts import head_meanings, tie_remarks
from vlrun.engine.torch_files import load_torch_file
from vlrun.engine.weight_hash import CONTENT_KEY, check_content, content_hash
from vlrun.engine.weight_sources import WeightSource, find_source
from vlrun.errors import CheckpointError, first_few
from vlrun.features.origin import UNKNOWN, FeatureOrigin
from vlrun.files import sha256_of, write_bytes, write_json
from vlrun.foreign.json import parse_json
from vlrun.plugins.entries import Entry, WeightFormat

ORIGIN_KEY = "vlrun_origin"
"""The same facts in the header of a file that was exported to another layout, so that the way back keeps them."""


@dataclass(frozen=True)
class ImportReport:
    """What an import wrote, and what it did not.

    Attributes:
        out, manifest: the files written.
        modules: tensors per module.
        parameters: number of values.
        left_behind: top-level entries of the source that did not come over, or not wholly, with counts of tensors.
        seen: the images that the weights have seen, in a few words.
        features: what made the features that they were trained on, likewise; empty if that is not known.
        licence: as recorded.
        is_checkable: whether what the network computes from a fixed input is recorded.
        remarks: what is known of the answers that a head chooses from.
    """

    out: Path
    manifest: Path
    modules: Mapping[str, int]
    parameters: int
    left_behind: tuple[str, ...]
    seen: str = ""
    features: str = ""
    licence: str = ""
    is_checkable: bool = False
    remarks: tuple[str, ...] = ()


def import_weights(
    source: Path | WeightSource,
    out: Path,
    weight_format: WeightFormat,
    *,
    vocabulary_hash: str | None = None,
    pretraining_sets: Sequence[str] | None = None,
    heads: Mapping[str, Mapping[str, Any]] | None = None,
    licence: str = "",
    features: FeatureOrigin = UNKNOWN,
    num_heads: int | None = None,
    backbone: Entry | None = None,
) -> ImportReport:
    """Converts a foreign checkpoint into ``out`` (.safetensors) and its manifest (.json), both written atomically.

    Args:
        source: the authors' file: what ``torch.save`` wrote, or .safetensors; or what ``find_source`` found.
        vocabulary_hash: of the vocabulary that the weights were trained with; compared whenever they are loaded.
        pretraining_sets: images that the weights have seen, as ``vlrun.data.declared`` writes it; compared with the
            evaluation splits of every run that starts from them. None takes what the format says of all such files.
            What an exported file says of itself is added.
        heads: what the numbers of a head in ``source`` mean, by its neutral name, as ``Task.head_meaning`` says it.
        licence: a note that goes before what the source or the format says.
        features: what made the features that the weights were trained on; what it leaves open is as the source or the
            format says, if they name the same extractor.
        num_heads: of the network, where neither the source's ``config.json`` nor its width tells.
        backbone: the declaration of the backbone; with it, the options of the network and what it computes from a
            fixed input are recorded.

    Raises:
        CheckpointError: ``source`` holds more than tensors and plain containers, is damaged, or is of another layout;
            or the answers in ``heads`` are not as many as the head has rows.
    """
    check_suffix(out)
    source = source if isinstance(source, WeightSource) else find_source(source)
    content, header = _read_for(weight_format, source)
    try:
        translated, entry = translated_by(weight_format, content)
        of_file = weight_format.heads_of(content)
    except CheckpointError as error:
        raise CheckpointError([f"{source.label}: {problem}" for problem in error.problems]) from error
    tensors = _own_memory(translated)
    before = _origin(header)
    known = FeatureOrigin.from_json(before["features"]) if "features" in before else weight_format.features
    seen = [
        *(weight_format.seen if pretraining_sets is None else pretraining_sets),
        *before.get("pretraining_sets", ()),
    ]
    metadata: dict[str, Any] = {
        "backbone": weight_format.backbone,
        "format": weight_format.name,
        "source": source.label,
        "source_sha256": _hash_of(source.files),
        "licence": licence or source.licence or before.get("licence", "") or weight_format.licence,
        "vocabulary_hash": vocabulary_hash or before.get("vocabulary_hash"),
        "pretraining_sets": list(dict.fromkeys(seen)),
        "features": features.filled_from(known).as_json(),
        "partial": weight_format.partial,
        "random": list(weight_format.random),
    }
    metadata["heads"] = head_meanings(
        tensors, metadata["vocabulary_hash"], [of_file, before.get("heads", {}), heads or {}]
    )
    if backbone is not None and not weight_format.partial:
        metadata |= described(backbone, tensors, num_heads or source.config.get("num_attention_heads"))
    remarks = [
        *tie_remarks(tensors, backbone),
        *answer_remarks(source.label, translated, weight_format, metadata["heads"], of_file),
    ]
    if weight_format.random:
        remarks.append(f"a start: {', '.join(weight_format.random)} will be random in every run that loads it")
    if entry:
        remarks.append(f"{source.label}: the weights lie under '{entry}', as a training program keeps them")
    left = () if weight_format.complete else left_behind(content, translated)
    return replace(write_imported(out, tensors, metadata, left), remarks=tuple(remarks))


def translated_by(weight_format: WeightFormat, content: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file under our names, and the entry under which they lie; empty if they are the file itself.

    Training programs write weights, optimiser and epoch as one file, with names of their own choice for these.

    Raises:
        CheckpointError: the file is of another layout, or several of its entries are of this one.
    """
    try:
        return weight_format.translate(content), ""
    except CheckpointError as error:
        found: dict[str, dict[str, Tensor]] = {}
        refused: list[str] = []
        for name, inner in content.items():
            if isinstance(inner, dict) and any(isinstance(value, Tensor) for value in inner.values()):
                try:
                    found[str(name)] = weight_format.translate(inner)
                except CheckpointError as inside:
                    refused.append(f"the tensors inside, under '{name}': {'; '.join(inside.problems)}")
        if not found:  # of many entries each is a module, as in files of ROSITA
            raise CheckpointError([*error.problems, *(refused if len(refused) == 1 else [])]) from error
        if len(found) > 1:
            raise CheckpointError(
                f"there are weights under {', '.join(map(repr, found))}; save those that you want alone"
            ) from error
        ((entry, tensors),) = found.items()
        return tensors, entry


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
    metadata[CONTENT_KEY] = content_hash(tensors, metadata)
    write_bytes(out, save(dict(tensors), {HEADER_KEY: json.dumps(metadata)}))
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
    features = FeatureOrigin.from_json(metadata.get("features"))
    return ImportReport(
        out,
        manifest,
        modules,
        parameters,
        tuple(left_behind),
        seen=seen,
        features="" if features == UNKNOWN else str(features),
        licence=metadata.get("licence", ""),
        is_checkable="forward_check" in metadata,
    )


def check_suffix(out: Path) -> None:
    """Refuses a file name without the suffix of imported weights.

    Raises:
        CheckpointError: ``out`` has another suffix.
    """
    if out.suffix != SUFFIX:
        raise CheckpointError(f"{out}: imported weights are a {SUFFIX} file; name it so")


def read_source(source: WeightSource) -> tuple[dict[str, Any], dict[str, Any]]:
    """Content and header of the files of a source, as one.

    Raises:
        CheckpointError: a file cannot be read safely, or tensors that the index promises are in none.
    """
    content: dict[str, Any] = {}
    header: dict[str, Any] = {}
    for path in source.files:
        part, header = read_foreign(path)
        content |= part
    if missing := sorted(source.tensors - content.keys()):
        raise CheckpointError(
            f"{source.label}: {len(missing):,} tensors that the index promises are in no part: "
            f"{', '.join(first_few(missing, 3))}"
        )
    return content, header


def read_foreign(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Content and header of a file of weights, on the CPU, without running any code in it.

    Raises:
        CheckpointError: it is missing, damaged, or holds more than tensors and plain containers.
    """
    if path.suffix == SUFFIX:
        return read_imported(path)
    return load_torch_file(path), {}


def read_imported(path: Path, *, header_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (none with ``header_only``) and metadata of a .safetensors file.

    Raises:
        CheckpointError: it is missing, damaged, or another kind of file.
    """
    check_is_imported(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            metadata = recorded_facts(header)
            tensors = {} if header_only else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not header_only:
            check_content(path, tensors, metadata if HEADER_KEY in header else _origin(header))
        return tensors, metadata
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read, it may be damaged: {_first_line(error)}") from error


def _read_for(weight_format: WeightFormat, source: WeightSource) -> tuple[dict[str, Any], dict[str, Any]]:
    """Content and header of a source, by the format's own reader if it has one."""
    if weight_format.reader is None:
        return read_source(source)
    return weight_format.resolve("reader")(source.files[0]), {}


def _origin(header: Mapping[str, Any]) -> dict[str, Any]:
    """What a file that we have exported says of itself; empty for all others."""
    try:
        facts = parse_json(header.get(ORIGIN_KEY, "{}"))
    except (TypeError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _hash_of(files: Sequence[Path]) -> str:
    """The hash of a file; of several, that of a list of theirs."""
    if len(files) == 1:
        return sha256_of(files[0])
    listed = "".join(f"{sha256_of(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()


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


def left_behind(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The entries of ``content`` that hold no tensor, or tensors that are in none of ``tensors``, nor copies of one.

    An entry is a top-level key; in a file of tensors alone, what their names have in common up to a first number.
    """
    kept = {tensor.data_ptr(): tensor.numel() for tensor in tensors.values()}
    alike: dict[tuple[int, ...], list[Tensor]] = {}
    for tensor in tensors.values():
        alike.setdefault(tuple(tensor.shape), []).append(tensor)
    inside: Counter[str] = Counter()
    left: Counter[str] = Counter()
    entries: dict[str, None] = {}
    for key, value in content.items():
        entry = _entry_of(key) if isinstance(value, Tensor) else str(key)
        held = [(name, leaf) for name, leaf in leaves({key: value}) if isinstance(leaf, Tensor)]
        inside[entry] += len(held)
        if not held:
            entries[str(key)] = None
        for name, tensor in held:
            if kept.get(tensor.data_ptr(), 0) >= tensor.numel():
                continue
            start = tensor.data_ptr()
            if any(start <= place < start + tensor.nbytes for place in kept):
                entries[f"{name} (all but a part of it)"] = None
            elif not any(_is_copy(tensor, other) for other in alike.get(tuple(tensor.shape), ())):
                left[entry] += 1
                entries[entry] = None
    return tuple(f"{entry} ({left[entry]} of {inside[entry]} tensors)" if left[entry] else entry for entry in entries)


def _is_copy(tensor: Tensor, other: Tensor) -> bool:
    """Whether both are the same matrix, such as a tied table that a file has twice.

    Their first numbers tell most apart. Fresh biases and counters are all alike without being copies.
    """
    if tensor.ndim < 2 or not torch.equal(tensor.flatten()[:2], other.flatten()[:2]):
        return False
    return torch.equal(tensor, other) and bool(tensor.any())


def _entry_of(name: str) -> str:
    """A name up to its first number, such as ``bert.encoder.layer.9``; without one, its first component."""
    parts = str(name).split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: number + 1])


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
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
        yield from leaves(item, f"{name}.{key}" if name else str(key))


def module_of(name: str) -> str:
    """The module that a tensor is counted under: the first component of its name."""
    return name.split(".", 1)[0]


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
