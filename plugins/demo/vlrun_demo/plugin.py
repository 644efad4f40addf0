"""What this plugin registers: one provider of demo data."""

from __future__ import annotations

from vlrun import DemoEntry, hookimpl


@hookimpl
def vlrun_demo_data() -> list[DemoEntry]:
    """Registers the provider."""
    return [
        DemoEntry(
            name="world",
            summary="a small world of coloured things",
            provider="vlrun_demo.provider:DemoWorld",
        )
    ]
