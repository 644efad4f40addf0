"""What this plugin registers: a world of demo data, and a detector for its pictures."""

from __future__ import annotations

from vlrun import DemoEntry, Entry, hookimpl


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


@hookimpl
def vlrun_detectors() -> list[Entry]:
    """Registers the detector."""
    return [
        Entry(
            name="demo-world",
            summary="a small detector for the pictures of the demo, with its weights; of no use for others",
            config="vlrun_demo.detector_config:DemoDetectorConfig",
            factory="vlrun_demo.detector:DemoDetector",
        )
    ]
