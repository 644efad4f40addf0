"""What a file of weights contains, for ``runner weights inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vlrun.data.leaks import describe_declared
from vlrun.engine.head_facts import KNOWN_HEADS, described_head, head_meanings, head_of
from vlrun.engine.weight_files import leaves, module_of, read_source, translated_by
from vlrun.engine.weight_sources import WeightSource, find_source
from vlrun.errors import CheckpointError
from vlrun.features.origin import FeatureOrigin
from vlrun.plugins.entries import WeightFormat
from vlrun.reporting.tables import TextTable


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
        heads: the heads in it by neutral name, in words; in a file that is not ours, as the first of ``formats`` says.
    """

    path: str
    bytes: int
    modules: tuple[ModuleSummary, ...]
    metadata: Mapping[str, Any]
    other: Mapping[str, str]
    formats: tuple[str, ...]
    heads: Mapping[str, str] = field(default_factory=dict)

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
        facts = {**self.metadata, "heads": "", **self.other}
        if "forward_check" in facts:
            facts["forward_check"] = "stored; `runner weights check` computes it again"
        if "features" in facts:
            facts["features"] = FeatureOrigin.from_json(facts["features"])
        if "pretraining_sets" in facts:
            facts["pretraining_sets"] = describe_declared(facts["pretraining_sets"])
        if "random" in facts:
            facts["random"] = ", ".join(facts["random"])
        lines += [f"{key}: {value}" for key, value in facts.items() if value]
        lines += [f"head {name}: {words}" for name, words in self.heads.items()]
        if not self.is_imported:
            lines.append(f"formats that read it: {', '.join(self.formats) or 'none of those installed'}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """All of it, for ``--json``."""
        return asdict(self)


def inspect_weights(source: Path | WeightSource, formats: Mapping[str, WeightFormat]) -> WeightSummary:
    """What ``source`` contains: one of our files, or anything that ``import_weights`` can open.

    Raises:
        CheckpointError: the file cannot be read safely.
    """
    label = source.label if isinstance(source, WeightSource) else str(source)
    source = source if isinstance(source, WeightSource) else find_source(source)
    content, metadata = read_source(source)
    grouped: dict[str, list[Tensor]] = {}
    other = {}
    for name, value in leaves(content):
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
    size = sum(path.stat().st_size for path in source.files)
    if "backbone" in metadata:
        return WeightSummary(label, size, modules, metadata, other, (), _heads(content, metadata.get("heads", {})))
    read = {name: found for name, kind in formats.items() if (found := _read_by(kind, content))}
    heads: dict[str, str] = {}
    for tensors, said in list(read.values())[:1]:
        heads = _heads(tensors, head_meanings(tensors, None, [said]))
    return WeightSummary(label, size, modules, metadata, other, tuple(read), heads)


def _heads(tensors: Mapping[str, Tensor], meanings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    names = [name for name in dict.fromkeys([*KNOWN_HEADS, *meanings]) if head_of(name, tensors)]
    return {name: described_head(name, tensors, meanings.get(name, {})) for name in names}


def _read_by(weight_format: WeightFormat, content: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors of a file and what it says of its heads; None where it is of another layout."""
    try:
        tensors = translated_by(weight_format, content)[0]
        return (tensors, weight_format.heads_of(content)) if tensors else None
    except CheckpointError:
        return None
