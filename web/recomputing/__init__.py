"""Decisions computed again for a page, in a process of their own."""
