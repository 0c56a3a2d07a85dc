"""The prefix index: which server was given which prompt, block by block.

A model server keeps what it computed for a prompt, and a later prompt that begins alike is cheaper there.
So the scheduler asks, for every candidate, how much of the prompt it was given before.

1. `prompt_blocks.py` cuts a prompt into blocks, which grow with depth, and hashes each together with all before it:
   two prompts that share a hash share everything up to there.
2. `hash_table.py` gives each hash a row.  A request has up to 256 hashes, and they are looked up together.
3. `lane.py` is one server.  It has a number, its lane, and remembers its rows from the least to the most recently used.
4. Who holds a block is a set of lanes, written as one whole number with a bit for each lane, kept by row.
   `lane_sets.py` adds up how long the blocks are whose sets each lane is in: of a prompt's leading blocks, that is how
   much each server holds.
5. `index.py` puts these together, and holds the limits: such a length a server, so many blocks in all.
"""
