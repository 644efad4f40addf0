"""ROSITA's structural knowledge masking (Cui et al. 2021). Every rule names its place in their sources."""
