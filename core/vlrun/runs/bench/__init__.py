"""Figures of an experiment on this machine: ratios within one run, so that other work on it slows all ways alike."""

PARTS = ("start-up", "features", "step", "task")
"""What can be asked for: also how the task itself evaluates, where that is a matter of its own."""
