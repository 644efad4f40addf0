"""Loading imported weights into a backbone and its heads: strictly, and with a report of every tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
        unexpected: in the file but not in the model.
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

    A tensor goes to the parameter of the same name; a head's tensors carry its name as prefix. Optional parts of the
    backbone, such as a matching head, are filled if they exist by now and the file holds them. Weights in another float
    type are cast.

    Raises:
        CheckpointError: the file cannot be read; under 99 % of ``backbone.weight_shapes()`` are in it, or, of a file
            that fills a part by design, a tensor of its own finds no place; a tensor has another shape; it was made for
            another vocabulary; or a head means something else.
    """
    tensors, metadata = read_imported(path)
    remarks: list[str] = []
    filled = [_adapted(slot, tensors, metadata, remarks) for slot in heads]
    own: dict[str, Tensor] = dict(backbone.state_dict())
    given = {name: tensor for name, tensor in tensors.items() if not any(_is_of(slot, name) for slot in heads)}
    for slot, content in zip(heads, filled, strict=True):
        own.update({f"{slot.name}.{key}": tensor for key, tensor in slot.module.state_dict().items()})
        given.update({f"{slot.name}.{key}": tensor for key, tensor in content.items()})

    shared = [name for name in own if name in given]
    mismatched = {
        name: (tuple(given[name].shape), tuple(own[name].shape))
        for name in shared
        if given[name].shape != own[name].shape
    }
    for slot, content in zip(
        heads, filled, strict=True
    ):  # several tasks may ask for one head, each with its own shapes
        for key, tensor in slot.module.state_dict().items():
            if key in content and content[key].shape != tensor.shape:
                mismatched[f"{slot.name}.{key}"] = (tuple(content[key].shape), tuple(tensor.shape))
    matched = tuple(name for name in shared if name not in mismatched)
    missing = tuple(name for name in own if name not in given)
    unexpected = tuple(name for name in given if name not in own)
    report = LoadReport(path, matched, missing, unexpected, mismatched, metadata, tuple(remarks))
    _check(report, set(backbone.weight_shapes()), backbone.vocabulary_hash)

    trunk = backbone.state_dict()
    backbone.load_state_dict({name: given[name] for name in matched if name in trunk}, strict=False)
    for slot, content in zip(heads, filled, strict=True):
        slot.module.load_state_dict(dict(content), strict=False)
    return report


def _is_of(slot: HeadSlot, name: str) -> bool:
    return name.startswith(f"{slot.name}.")


def _adapted(
    slot: HeadSlot, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], remarks: list[str]
) -> Mapping[str, Tensor]:
    """The file's tensors for ``slot``, as its head needs them; empty if there are none."""
    found = {key.removeprefix(f"{slot.name}."): value for key, value in tensors.items() if _is_of(slot, key)}
    if not found:
        remarks.append(f"{slot.name}: not in the file; it starts from random weights")
        return {}
    adapted, lines = slot.adapt(found, metadata.get("heads", {}).get(slot.name, {}))
    remarks += lines
    return adapted


def _check(report: LoadReport, required: set[str], vocabulary_hash: str) -> None:
    problems = []
    found = required.intersection([*report.matched, *report.mismatched])
    if report.metadata.get("partial"):
        if report.unexpected:
            problems.append(
                f"{report.path}: fills a part of a backbone by design, but {len(report.unexpected)} of its tensors "
                f"have no place in this one, such as '{report.unexpected[0]}'; nothing was loaded"
            )
    elif len(found) < REQUIRED_SHARE * len(required):
        problems.append(
            f"{report.path}: only {len(found)} of the backbone's {len(required)} tensors are in it; nothing was "
            f"loaded. The file has, for example, '{next(iter(report.unexpected), '-')}', "
            f"the backbone '{next(iter(report.missing), '-')}'"
        )
    for name, (theirs, ours) in report.mismatched.items():
        problems.append(f"{report.path}: '{name}' has shape {theirs}, the model needs {ours}")
    trained_with = report.metadata.get("vocabulary_hash")
    if trained_with and vocabulary_hash and trained_with != vocabulary_hash:
        problems.append(
            f"{report.path}: made for vocabulary {trained_with}, this backbone has {vocabulary_hash}: "
            "its words would mean other ones"
        )
    if problems:
        raise CheckpointError([*problems, *report.lines()])
