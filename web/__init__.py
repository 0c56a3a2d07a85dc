"""The operators' edge: pages, metrics."""
