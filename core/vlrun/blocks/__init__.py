"""Parts for plugins to build with that belong to no single paper or task."""
