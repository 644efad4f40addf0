"""Loading imported weights into a backbone and its heads: strictly, and with a report of every tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vlrun.engine.weight_files import module_of, read_imported
from vlrun.errors import CheckpointError
from vlrun.interfaces.backbone import Backbone
from vlrun.reporting.tables import TextTable

REQUIRED_SHARE = 0.99
"""Under this share of the backbone's tensors nothing is loaded: a wrong prefix must not train a random network."""

Adapt = Callable[[Mapping[str, Tensor], Mapping[str, Any]], tuple[Mapping[str, Tensor], list[str]]]
"""As ``Task.adapt_imported_head``."""


@dataclass(frozen=True)
class HeadSlot:
    """A head that imported weights may fill.

    Attributes:
        name: under which they hold it.
        module: its layers.
        adapt: changes the imported tensors to what this head means.
    """

    name: str
    module: nn.Module
    adapt: Adapt = lambda tensors, meaning: (tensors, [])


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor, by full name.

    Attributes:
        path: the file.
        matched: loaded.
        missing: in the model but not in the file; these keep their initial values.
        unexpected: in the file but not in the model, which says that it has no use for them.
        mismatched: in both with different shapes: name -> (shape in the file, shape in the model).
        metadata: where the weights come from, as ``import_weights`` wrote it.
        remarks: what was done to heads to make them fit.
    """

    path: Path
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """A table with one row per module and a total, for the console and the log."""
        columns = {
            "matched": Counter(map(module_of, self.matched)),
            "missing": Counter(map(module_of, self.missing)),
            "unexpected": Counter(map(module_of, self.unexpected)),
            "other shape": Counter(map(module_of, self.mismatched)),
        }
        modules = list(dict.fromkeys(module for column in columns.values() for module in column))
        rows = [[module, *(str(column[module]) for column in columns.values())] for module in modules]
        rows.append(["total", *(str(column.total()) for column in columns.values())])
        return TextTable(["module", *columns], rows, numeric=columns, footnotes=self.remarks).as_lines()


def load_weights(backbone: Backbone, path: Path, *, heads: Sequence[HeadSlot] = ()) -> LoadReport:
    """Fills ``backbone``, and those ``heads`` that the file holds, from an imported file.

    A tensor goes to the parameter of the same name; a head's tensors carry its name as prefix. The backbone says which
    of its parts the file may lack, and which others it may hold. Weights in another float type are cast.

    Raises:
        CheckpointError: the file cannot be read; under 99 % of the backbone is in it, or, of a file that fills a part
            by design, some layers of a stack and not the others; a tensor has no place or another shape; a head is
            there in part or means something else; or it was made for another vocabulary.
    """
    tensors, metadata = read_imported(path)
    remarks: list[str] = []
    filled = [(slot, _adapted(slot, tensors, metadata, remarks)) for slot in heads]
    trunk = {name: tensor for name, tensor in tensors.items() if not any(is_in(name, [slot.name]) for slot in heads)}
    fit = _compare(backbone, trunk)
    fits = [_compare(slot.module, content, f"{slot.name}.") for slot, content in filled]

    report = LoadReport(
        path,
        matched=_in_order(part.matched for part in [fit, *fits]),
        missing=_in_order(part.missing for part in [fit, *fits]),
        unexpected=_in_order(part.unexpected for part in [fit, *fits]),
        mismatched={name: shapes for part in [fit, *fits] for name, shapes in part.mismatched.items()},
        metadata=metadata,
        remarks=tuple(remarks),
    )
    problems = _backbone_problems(fit, backbone, trunk, metadata)
    problems += [line for (slot, content), part in zip(filled, fits, strict=True) if content for line in part.of(slot)]
    if problems:
        raise CheckpointError([*(f"{path}: {problem}" for problem in problems), *report.lines()])

    backbone.load_state_dict({name: trunk[name] for name in fit.matched}, strict=False)
    for slot, content in filled:
        if content:
            slot.module.load_state_dict(dict(content))
    return report


@dataclass(frozen=True)
class _Fit:
    """How the tensors of a file fit one module, by full name; fields as in ``LoadReport``."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def shape_problems(self) -> list[str]:
        """A line for each tensor of another shape."""
        return [
            f"'{name}' has shape {theirs}, the model needs {ours}" for name, (theirs, ours) in self.mismatched.items()
        ]

    def of(self, slot: HeadSlot) -> list[str]:
        """Why this head cannot be filled; a head is filled whole or not at all."""
        problems = self.shape_problems()
        if self.missing:
            problems.append(f"'{slot.name}' is not whole: {_first_names(self.missing)} of this run's head are missing")
        if self.unexpected:
            problems.append(f"'{slot.name}' has tensors that this run's head has not: {_first_names(self.unexpected)}")
        if problems:
            problems.append(
                f"the head '{slot.name}' was trained with other options than those of this run's task: set them alike, "
                "or import the weights without it"
            )
        return problems


def _compare(module: nn.Module, content: Mapping[str, Tensor], prefix: str = "") -> _Fit:
    ours = {f"{prefix}{key}": tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    theirs = {f"{prefix}{key}": tuple(tensor.shape) for key, tensor in content.items()}
    return _Fit(
        matched=[name for name, shape in ours.items() if theirs.get(name) == shape],
        missing=[name for name in ours if name not in theirs],
        unexpected=[name for name in theirs if name not in ours],
        mismatched={
            name: (theirs[name], shape) for name, shape in ours.items() if name in theirs and theirs[name] != shape
        },
    )


def _in_order(parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in part))


def is_in(name: str, parts: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of these parts of a network, such as ``encoder`` or ``encoder.layer``."""
    return any(name.startswith(f"{part}.") for part in parts)


def _adapted(
    slot: HeadSlot, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], remarks: list[str]
) -> Mapping[str, Tensor]:
    """The file's tensors for ``slot``, as its head needs them; empty if there are none."""
    found = {key.removeprefix(f"{slot.name}."): value for key, value in tensors.items() if is_in(key, [slot.name])}
    if not found:
        remarks.append(f"{slot.name}: not in the file; it starts from random weights")
        return {}
    adapted, lines = slot.adapt(found, metadata.get("heads", {}).get(slot.name, {}))
    remarks += lines
    return adapted


def _backbone_problems(fit: _Fit, backbone: Backbone, given: Iterable[str], metadata: Mapping[str, Any]) -> list[str]:
    """Why the tensors ``given`` for the backbone cannot be loaded into it."""
    problems = []
    own = [*backbone.state_dict()]
    required = {name for name in own if not is_in(name, backbone.optional_weights)}
    found = required.intersection([*fit.matched, *fit.mismatched])
    homeless = [name for name in fit.unexpected if not is_in(name, backbone.unused_weights)]
    depths = _other_depths(given, own, backbone.depth_options)
    if not metadata.get("partial") and len(found) < REQUIRED_SHARE * len(required):
        problems.append(
            f"only {len(found)} of the backbone's {len(required)} tensors are in it; nothing was loaded. The file has, "
            f"for example, '{next(iter(fit.unexpected), '-')}', the backbone '{next(iter(fit.missing), '-')}'"
        )
        problems += depths
    elif homeless:
        problems.append(
            f"{len(homeless):,} of its tensors have no place in the backbone: {_first_names(homeless)}; nothing was "
            "loaded"
        )
        made_for = f" for backbone '{metadata['backbone']}'" if "backbone" in metadata else ""
        problems += depths or [f"it was imported{made_for}; choose the backbone and its options as it was trained"]
    elif metadata.get("partial") and depths:
        problems.append("it fills some layers of the backbone and would leave the others random; nothing was loaded")
        problems += depths
    if fit.mismatched:
        problems += fit.shape_problems()
        problems.append("set the sizes among the options of `backbone` to those of the file")
    trained_with = metadata.get("vocabulary_hash")
    if trained_with and backbone.vocabulary_hash and trained_with != backbone.vocabulary_hash:
        problems.append(
            f"made for vocabulary {trained_with}, this backbone has {backbone.vocabulary_hash}: "
            "its words would mean other ones"
        )
    return problems


def _other_depths(given: Iterable[str], own: Iterable[str], options: Mapping[str, str]) -> list[str]:
    """The stacks of layers that the file has more or fewer of than the backbone, and the options to set.

    A stack that the file does not have at all is none of its business.
    """
    theirs, ours = _depths(given), _depths(own)
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


def _first_names(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more
