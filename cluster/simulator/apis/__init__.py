"""What a simulated server is asked and what it answers, a module for each API; no I/O."""
