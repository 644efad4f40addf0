"""What this plugin offers: the backbone ``rosita`` and the reader of its authors' weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlrun import Entry, WeightFormat, hookimpl
from vlrun_rosita.config import RositaConfig

if TYPE_CHECKING:
    from vlrun_rosita.model import Rosita


def build_rosita(config: RositaConfig) -> Rosita:
    from vlrun_rosita.model import Rosita

    return Rosita.from_config(config)


def translate(content: dict[str, Any]) -> dict[str, Any]:
    from vlrun_rosita.checkpoint import translate

    return translate(content)


@hookimpl
def vlrun_backbones() -> list[Entry[Rosita]]:
    return [Entry("rosita", "single-stream transformer (Cui et al. 2021)", RositaConfig, build_rosita)]


@hookimpl
def vlrun_weight_formats() -> list[WeightFormat]:
    return [WeightFormat("rosita", "rosita", "the authors' .pkl files, pre-trained or fine-tuned", translate)]
