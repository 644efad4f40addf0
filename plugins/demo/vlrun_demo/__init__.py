"""A small generated world in the real file formats; ``plugin.py`` says what it offers."""
