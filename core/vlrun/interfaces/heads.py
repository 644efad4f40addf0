"""Heads that travel: from one run to the next, and between our files and those of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Adapt = Callable[[Mapping[str, "Tensor"], Mapping[str, Any]], tuple[Mapping[str, "Tensor"], list[str]]]
"""As ``Task.adapt_imported_head``."""


def as_imported(tensors: Mapping[str, Tensor], meaning: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], list[str]]:
    """Leaves the tensors of an imported head as they are."""
    return tensors, []


@dataclass(frozen=True)
class NamedHead:
    """Layers of a task that have a neutral name, under which files of weights hold them; see ``Task.named_heads``.

    Attributes:
        module: the layers. Parameters that it shares with the backbone, such as the table of a tied word decoder, are
            the backbone's: no file needs them twice.
        meaning: what their numbers mean, such as a list of answers; JSON-ready. Written with them.
        adapt: changes imported tensors to what these layers mean, as ``Task.adapt_imported_head`` does.
    """

    module: nn.Module
    meaning: Mapping[str, Any] = field(default_factory=dict)
    adapt: Adapt = as_imported
