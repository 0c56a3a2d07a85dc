"""One routing decision: made, explained, and made again."""
