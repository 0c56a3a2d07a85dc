"""How a simulated server spends its time, and what it counts: continuous batching, KV cache, metrics page; no I/O."""
