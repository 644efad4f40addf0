"""The region-feature store: read, write, verify, import."""
