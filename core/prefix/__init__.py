"""Which server was given which prompt: block hashes and the index over them."""
