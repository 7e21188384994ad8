"""Generated message classes; regenerate with `make protos`."""
