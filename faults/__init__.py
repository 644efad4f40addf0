"""Faults, injected for real into short runs: what survives them, and what does not. ``python -m faults --help``."""
