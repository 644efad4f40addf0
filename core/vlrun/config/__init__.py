"""The experiment file: its options, and all of its problems at once."""
