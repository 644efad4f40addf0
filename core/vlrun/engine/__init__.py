"""A run at work: its parts, its steps, its evaluations, on any number of processes."""
