"""Distillation as a plugin: see README.md."""
