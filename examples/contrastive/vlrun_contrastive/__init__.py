"""Contrastive learning as a plugin: see README.md."""
