"""R-Drop as a plugin: see README.md."""
