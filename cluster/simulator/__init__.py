"""A model server that behaves like vLLM: `server.py` is one server, `engine/` is how it spends its time."""
