"""A model server that behaves like vLLM: `server.py` is one server, `engine/` how it spends its time, `apis/` what it speaks."""
