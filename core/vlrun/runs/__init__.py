"""A run from its file to its report, and what is done with a finished one."""
