"""A model server that behaves like vLLM: `server.py` serves it, `engine.py` is how it spends its time."""
