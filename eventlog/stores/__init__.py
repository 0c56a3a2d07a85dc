"""What a log is in every store: the Protocols of a store, and what stands on them."""
