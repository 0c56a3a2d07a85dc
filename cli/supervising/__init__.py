"""The supervisor and what it needs to start, watch and end the other processes."""
