"""What this plugin offers: the backbone and an importer for its authors' weights."""

from __future__ import annotations

from vlrun import Entry, WeightFormat, hookimpl


@hookimpl
def vlrun_backbones() -> list[Entry]:
    """Registers the backbone."""
    return [
        Entry(
            name="uniter",
            summary="single-stream transformer (Chen et al. 2020)",
            config="vlrun_uniter.config:UniterConfig",
            factory="vlrun_uniter.model:Uniter",
        )
    ]


@hookimpl
def vlrun_weight_formats() -> list[WeightFormat]:
    """Registers the importer."""
    return [
        WeightFormat(
            name="uniter",
            backbone="uniter",
            summary="the authors' .pt files",
            translator="vlrun_uniter.checkpoint:translate",
            seen=("possibly COCO_*", "possibly visual-genome:*", "possibly conceptual-captions:*", "possibly sbu:*"),
        )
    ]
