"""The read model: what searches and charts ask, in a file of its own behind the log."""
