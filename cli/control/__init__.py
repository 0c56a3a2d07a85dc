"""The control process, put together."""
