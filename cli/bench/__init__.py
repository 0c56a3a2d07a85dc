"""`pointsman bench` and what it measures with; the benchmarks of a checkout measure with the same."""
