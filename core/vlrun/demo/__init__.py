"""``--demo``: any experiment on embedded data."""
