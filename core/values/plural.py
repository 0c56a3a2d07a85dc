"""Counts in sentences."""


def plural(count: int, noun: str) -> str:
    """`1 request`, `2 requests`; for nouns that take an s."""
    return f"{count} {noun}{'s' * (count != 1)}"
