"""`pointsman bench`, and the measurements that it shares with `benchmarks/` of a checkout."""
