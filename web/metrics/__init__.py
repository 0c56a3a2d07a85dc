"""`/metrics`: counted from committed entries, written as text."""
