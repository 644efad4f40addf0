"""Figures of an experiment on this machine: ratios within one run, so that other work on it slows all ways alike."""
