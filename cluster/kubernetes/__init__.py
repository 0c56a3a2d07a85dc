"""The API server of a cluster as a source of objects, and as the place where weights are written.

The official client finds the server and its credentials (`access.py`).  Lists and watches are read here, from the raw
bytes: a Pod costs 20 microseconds that way, and 400 through the client's models.

Theory.  Each kind in each namespace is followed by a task of its own (`following.py`): one list, then watches from its
version on.  What they say is held in one place (`held_objects.py`), which turns it into the same `Wanted` as a directory
of manifests does.  A kind that cannot be read holds back what the log says of it, and nothing else.
"""
