"""What this plugin offers: the backbone ``rosita`` and the reader of its authors' weights."""

from __future__ import annotations

from vlrun import Entry, WeightFormat, hookimpl


@hookimpl
def vlrun_backbones() -> list[Entry]:
    """The network."""
    return [
        Entry(
            name="rosita",
            summary="single-stream transformer (Cui et al. 2021)",
            config="vlrun_rosita.config:RositaConfig",
            factory="vlrun_rosita.model:Rosita.from_config",
        )
    ]


@hookimpl
def vlrun_weight_formats() -> list[WeightFormat]:
    """The authors' files."""
    return [
        WeightFormat(
            name="rosita",
            backbone="rosita",
            summary="the authors' .pkl files, pre-trained or fine-tuned",
            translator="vlrun_rosita.checkpoint:translate",
        )
    ]
