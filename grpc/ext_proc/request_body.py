"""The body of a request as far as it came, held until the request goes on."""

from pointsman.grpc.ext_proc.encodings import Unfolding, Unread, unfolding
from pointsman.grpc.serving.held import Account

CHUNK_BYTES = 4096
"""Bytes of a chunk that is kept as it came; smaller ones are copied together, as each object costs more than its bytes."""


class RequestBody:
    """What is held goes to the account of the connection."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._chunks: list[bytes | bytearray] = []
        self._unfolding: Unfolding | None = None
        """Body without its content encoding; None where it has none."""
        self.bytes = 0
        """Bytes that are held, as they came and without the encoding."""

    def encoded(self, encoding: str) -> None:
        """The headers said so: what comes is read without it."""
        self._unfolding = unfolding(encoding)

    @property
    def unread(self) -> Unread | None:
        """Why it cannot be read without its encoding; None where it can."""
        return None if self._unfolding is None else self._unfolding.unread

    @property
    def folded(self) -> bool:
        """Whether it has an encoding."""
        return self._unfolding is not None

    def take(self, chunk: bytes) -> bool:
        """Hold a chunk; whether there is room for it."""
        chunks, size = self._chunks, len(chunk)
        if not chunks or size >= CHUNK_BYTES:
            chunks.append(chunk)
        elif isinstance(chunks[-1], bytearray):
            chunks[-1] += chunk
        else:
            chunks.append(bytearray(chunk))
        if self._unfolding is not None:
            size += self._unfolding.feed(chunk)
        self.bytes += size
        self._account.take(size)
        return not self._account.beyond()

    def as_it_came(self) -> bytes:
        """All of it."""
        if len(self._chunks) != 1:
            self._chunks = [b"".join(self._chunks)]
        return bytes(self._chunks[0])

    def plain(self) -> bytes:
        """All of it for reading: without its encoding."""
        return self.as_it_came() if self._unfolding is None else self._unfolding.body()

    def release(self) -> None:
        """Hold nothing more."""
        self._account.give(self.bytes)
        self.bytes = 0
        self._chunks = []
        self._unfolding = None
