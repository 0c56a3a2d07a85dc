"""The log in SQLite files, one for each segment."""
