"""Manifests mode: a directory of files as the source, and weights written back to them."""
