"""The log: positions, batches, hash chain, segments, snapshots, and the control end of the feed."""
