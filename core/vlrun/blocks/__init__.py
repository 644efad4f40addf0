"""Parts that no paper and no task owns: for plugins to build with."""
