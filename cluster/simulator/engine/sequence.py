"""One prompt in a simulated server, from its arrival to its last token."""

import math


class Sequence:
    """One prompt and the tokens made for it."""

    __slots__ = (
        "adapter",
        "arrived",
        "cached",
        "chunk",
        "first_token",
        "hashes",
        "left",
        "private",
        "produced",
        "prompt_tokens",
        "reason",
        "scheduled",
        "shared",
        "target",
    )

    def __init__(self, prompt_tokens: int, hashes: list[int], target: int, reason: str, adapter: str = "") -> None:
        assert prompt_tokens > 0, "a prompt has at least one token"
        assert target > 0, "a sequence makes at least one token"
        self.prompt_tokens = prompt_tokens
        self.hashes = hashes
        self.target = target
        self.reason = reason
        """Reason for which it will end after `target` tokens: `length` or `stop`."""
        self.adapter = adapter
        self.produced = 0
        self.cached = 0
        self.left = 0
        self.chunk = 0
        self.shared: list[int] = []
        self.private = 0
        self.arrived = math.nan
        self.scheduled = math.nan
        self.first_token = math.nan

    @property
    def done(self) -> bool:
        """Whether all its tokens are there."""
        return self.produced == self.target
