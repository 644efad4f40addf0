"""Loading imported weights into a backbone and its heads: strictly, and with a report of every tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vlrun.blocks.decoders import WORD_DECODER, WORD_HEAD
from vlrun.engine.head_facts import KNOWN_HEADS, head_of
from vlrun.engine.weight_files import module_of, read_imported
from vlrun.errors import CheckpointError, first_few
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.heads import Adapt, as_imported
from vlrun.reporting.tables import TextTable

REQUIRED_SHARE = 0.99
"""Under this share of the backbone's tensors nothing is loaded: a wrong prefix must not train a random network."""

_SHOWN_NAMES = 3


@dataclass(frozen=True)
class HeadSlot:
    """A head that imported weights may fill.

    Attributes:
        name: its neutral name in the file.
        module: its layers.
        adapt: changes the imported tensors so that they mean what this head means.
    """

    name: str
    module: nn.Module
    adapt: Adapt = as_imported


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor, by full name.

    Attributes:
        path: the file.
        matched: loaded.
        missing: in the model but not in the file; these keep their initial values.
        unused: in the file but not in the model, which declares that it has no use for them, such as heads of
            pre-training.
        unexpected: in the file but not in the model, which knows nothing of them; none if anything was loaded.
        mismatched: in both with different shapes: name -> (shape in the file, shape in the model).
        metadata: where the weights come from, as ``import_weights`` wrote it.
        remarks: which heads were taken, left or made to fit, and what starts random by design.
    """

    path: Path
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """A table with one row per module and a total, for the console and the log."""
        counted = {
            "matched": Counter(map(module_of, self.matched)),
            "missing": Counter(map(module_of, self.missing)),
            "unused": Counter(map(module_of, self.unused)),
            "unexpected": Counter(map(module_of, self.unexpected)),
            "other shape": Counter(map(module_of, self.mismatched)),
        }
        columns = {name: column for name, column in counted.items() if column or name in ("matched", "missing")}
        modules = list(dict.fromkeys(module for column in columns.values() for module in column))
        rows = [[module, *(str(column[module]) for column in columns.values())] for module in modules]
        rows.append(["total", *(str(column.total()) for column in columns.values())])
        return TextTable(["module", *columns], rows, numeric=columns, footnotes=self.remarks).as_lines()


def load_weights(backbone: Backbone, path: Path, *, heads: Sequence[HeadSlot] = ()) -> LoadReport:
    """Fills ``backbone``, and those ``heads`` that the file holds, from an imported file.

    A tensor goes to the parameter of the same name; a head's tensors carry its name as prefix. The backbone says which
    of its parts the file may lack, and which others it may hold; heads that nobody wants are left. Parameters that a
    head shares with the backbone are the backbone's. Weights in another float type are cast.

    Raises:
        CheckpointError: the file cannot be read; it has under 99 % of the backbone, but for what its format leaves
            random by design, or then some layers of a stack but not all; a tensor has no place or another shape; a head
            is incomplete or means something else; or the file was made for another vocabulary.
    """
    tensors, metadata = read_imported(path)
    remarks: list[str] = []
    filled = [(slot, _filling(slot, backbone, tensors, metadata, remarks)) for slot in heads]
    trunk = {name: tensor for name, tensor in tensors.items() if not any(is_in(name, [slot.name]) for slot in heads)}
    fit = _compare(backbone, trunk)
    fits = [_compare(slot.module, content, f"{slot.name}.", _shared(slot, backbone)) for slot, content in filled]
    others = [*backbone.unused_weights, *KNOWN_HEADS, *metadata.get("heads", {})]
    homeless = [name for name in fit.unexpected if not is_in(name, others)]

    report = LoadReport(
        path,
        matched=_in_order(part.matched for part in [fit, *fits]),
        missing=_in_order(part.missing for part in [fit, *fits]),
        unused=tuple(name for name in fit.unexpected if name not in homeless),
        unexpected=_in_order([homeless, *(part.unexpected for part in fits)]),
        mismatched={name: shapes for part in [fit, *fits] for name, shapes in part.mismatched.items()},
        metadata=metadata,
        remarks=(*_random_by_design(fit, metadata), *remarks, *_left(fit, metadata)),
    )
    problems = _backbone_problems(fit, homeless, backbone, trunk, metadata)
    problems += [
        line for (slot, content), part in zip(filled, fits, strict=True) if content for line in part.head_problems(slot)
    ]
    if problems:
        table = [] if report.mismatched else report.lines()  # sizes have been named, and no count says more of them
        raise CheckpointError([*(f"{path}: {problem}" for problem in problems), *table])

    backbone.load_state_dict({name: trunk[name] for name in fit.matched}, strict=False)
    for slot, content in filled:
        if content:
            slot.module.load_state_dict({**slot.module.state_dict(), **content})
    return report


@dataclass(frozen=True)
class _Fit:
    """How the tensors of a file fit one module, by full name; fields as in ``LoadReport``."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def shape_problems(self) -> list[str]:
        """The tensors of other shapes: the first few, and how many more there are."""
        lines = [
            f"'{name}' has shape {theirs}, the model needs {ours}" for name, (theirs, ours) in self.mismatched.items()
        ]
        return first_few(lines, _SHOWN_NAMES)

    def head_problems(self, slot: HeadSlot) -> list[str]:
        """Why this head cannot be filled; a head is filled whole or not at all."""
        problems = self.shape_problems()
        if self.missing:
            problems.append(f"'{slot.name}' is not whole: {_first_names(self.missing)} of this run's head are missing")
        if self.unexpected:
            problems.append(f"'{slot.name}' has tensors that this run's head lacks: {_first_names(self.unexpected)}")
        if problems:
            problems.append(
                f"the head '{slot.name}' was trained with other options than those of this run's task: use "
                "the same ones, or import the weights without this head"
            )
        return problems


def _compare(
    module: nn.Module, content: Mapping[str, Tensor], prefix: str = "", shared: Mapping[str, str] = MappingProxyType({})
) -> _Fit:
    """Compares a module with the tensors for it, but for those of its parameters that are ``shared``."""
    ours = {f"{prefix}{key}": tuple(tensor.shape) for key, tensor in module.state_dict().items() if key not in shared}
    theirs = {f"{prefix}{key}": tuple(tensor.shape) for key, tensor in content.items()}
    return _Fit(
        matched=[name for name, shape in ours.items() if theirs.get(name) == shape],
        missing=[name for name in ours if name not in theirs],
        unexpected=[name for name in theirs if name not in ours],
        mismatched={
            name: (theirs[name], shape) for name, shape in ours.items() if name in theirs and theirs[name] != shape
        },
    )


def _shared(slot: HeadSlot, backbone: Backbone) -> dict[str, str]:
    """The parameters that a head shares with the backbone: name within the head -> name within the backbone."""
    homes = {id(parameter): name for name, parameter in backbone.named_parameters()}
    own = slot.module.named_parameters(remove_duplicate=False)
    return {name: homes[id(parameter)] for name, parameter in own if id(parameter) in homes}


def _in_order(parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in part))


def is_in(name: str, parts: Sequence[str]) -> bool:
    """Whether a tensor belongs to any of these parts of a network, such as ``encoder`` or ``encoder.layer``."""
    return any(name.startswith(f"{part}.") for part in parts)


def _filling(
    slot: HeadSlot,
    backbone: Backbone,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    remarks: list[str],
) -> dict[str, Tensor]:
    """The file's tensors for ``slot``, as its head needs them; empty if there are none."""
    content = head_of(slot.name, tensors)
    if not content:
        remarks.append(f"{slot.name}: not in the file; it starts from random weights")
        return {}
    if slot.name == WORD_HEAD and WORD_DECODER not in content:  # tied in the file
        table = backbone.word_table()
        home = next((name for name, parameter in backbone.named_parameters() if parameter is table), "")
        content |= {WORD_DECODER: tensors[home]} if home in tensors else {}
    adapted, lines = slot.adapt(content, metadata.get("heads", {}).get(slot.name, {}))
    filling = dict(adapted)
    for name, home in _shared(slot, backbone).items():
        theirs = filling.pop(name, None)
        if theirs is not None and home in tensors and not torch.equal(theirs, tensors[home]):
            lines = [
                *lines,
                f"{slot.name}: '{name}' is not '{home}' in the file; here they are one table, and '{home}' is taken",
            ]
    if filling:
        remarks.append(f"{slot.name}: taken, {sum(name in filling for name in content)} tensors")
    remarks += lines
    return filling


def _left(fit: _Fit, metadata: Mapping[str, Any]) -> list[str]:
    """A line for each head of the file that nobody wants."""
    known = {*KNOWN_HEADS, *metadata.get("heads", {})}
    counts = Counter(module_of(name) for name in fit.unexpected)
    return [f"{name}: left, {counts[name]} tensors: no task here has such a head" for name in counts if name in known]


def _random_by_design(fit: _Fit, metadata: Mapping[str, Any]) -> list[str]:
    """A line for each part of the backbone that a start of this kind leaves random."""
    counts = {part: sum(is_in(name, [part]) for name in fit.missing) for part in metadata.get("random", ())}
    return [
        f"{part}: {count} tensors start random, as they do from every file of format '{metadata.get('format')}'"
        for part, count in counts.items()
        if count
    ]


def _backbone_problems(
    fit: _Fit, homeless: Sequence[str], backbone: Backbone, imported: Iterable[str], metadata: Mapping[str, Any]
) -> list[str]:
    """Why the imported tensors (their names) cannot be loaded into the backbone."""
    problems = []
    names = [*backbone.state_dict()]
    left_random = metadata.get("random", ())
    required = {name for name in names if not is_in(name, [*backbone.optional_weights, *left_random])}
    present = required.intersection([*fit.matched, *fit.mismatched])
    depths = _other_depths(imported, names, backbone.depth_options)
    is_part, is_short = metadata.get("partial"), len(present) < REQUIRED_SHARE * len(required)
    if is_short and not is_part:
        problems.append(
            f"only {len(present)} of the backbone's {len(required)} tensors are in it; nothing was loaded. The file "
            f"has, for example, '{next(iter(fit.unexpected), '-')}', the backbone '{next(iter(fit.missing), '-')}'"
        )
        problems += depths
    elif homeless:
        problems.append(
            f"{len(homeless):,} of its tensors have no place in the backbone: {_first_names(homeless)}; nothing was "
            "loaded"
        )
        made_for = f" for backbone '{metadata['backbone']}'" if "backbone" in metadata else ""
        problems += depths or [f"it was imported{made_for}; choose the backbone and its options as it was trained"]
    elif is_part and depths:
        problems.append("it would fill some layers of the backbone and leave the others random; nothing was loaded")
        problems += depths
    elif is_part and is_short and left_random:
        lacking = [name for name in fit.missing if name in required]
        problems.append(
            f"{len(lacking):,} tensors are missing that a file of format '{metadata.get('format')}' has: "
            f"{_first_names(lacking)}; nothing was loaded"
        )
    if fit.mismatched:
        problems += fit.shape_problems()
        problems.append("set the size options under `backbone` to those of the file")
    trained_with = metadata.get("vocabulary_hash")
    if trained_with and backbone.vocabulary_hash and trained_with != backbone.vocabulary_hash:
        problems.append(
            f"made for vocabulary {trained_with}, this backbone has {backbone.vocabulary_hash}: "
            "the same ids would mean other words"
        )
    return problems


def _other_depths(imported: Iterable[str], names: Iterable[str], options: Mapping[str, str]) -> list[str]:
    """The stacks that have more or fewer layers in the file than in the backbone, and the options to set.

    Stacks that the file lacks altogether are left out.
    """
    theirs, ours = _depths(imported), _depths(names)
    lines = []
    for stack, depth in theirs.items():
        if depth != ours.get(stack, 0) and (stack in ours or stack in options):
            option = f"; set backbone.{options[stack]}={depth}" if stack in options else ""
            lines.append(f"layers of '{stack}': {depth} in the file, {ours.get(stack, 0)} in the backbone{option}")
    return lines


def _depths(names: Iterable[str]) -> dict[str, int]:
    """How many layers each numbered stack has."""
    depths: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for place, part in enumerate(parts):
            if part.isdigit():
                stack = ".".join(parts[:place])
                depths[stack] = max(depths.get(stack, 0), int(part) + 1)
    return depths


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(first_few([f"'{name}'" for name in names], _SHOWN_NAMES))
