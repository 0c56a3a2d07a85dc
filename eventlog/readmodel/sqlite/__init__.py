"""The read model in an SQLite file of its own."""
