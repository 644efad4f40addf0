"""ROSITA, a single-stream backbone (Cui et al. 2021); ``plugin.py`` says what it offers."""
