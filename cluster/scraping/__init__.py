"""The load of every endpoint, as facts."""
