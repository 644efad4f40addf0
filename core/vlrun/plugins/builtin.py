"""What the core itself offers, on the same hooks as any plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlrun.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from vlrun.features.formats import FeatureFormat
    from vlrun.plugins.entries import Entry


@hookimpl
def vlrun_reporters() -> list[Entry[Any]]:
    from vlrun.plugins.builtin_reporters import BUILTIN_REPORTERS

    return list(BUILTIN_REPORTERS)


@hookimpl
def vlrun_feature_formats() -> list[FeatureFormat]:
    from vlrun.features.formats import BUILTIN_FORMATS

    return list(BUILTIN_FORMATS)
