"""The control process's end of the feed."""
