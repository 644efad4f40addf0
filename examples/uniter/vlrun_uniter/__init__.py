"""UNITER (Chen et al. 2020) as a backbone."""
