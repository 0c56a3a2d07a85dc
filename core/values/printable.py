"""Text for a terminal: what others chose must not move its cursor, change its colours or begin lines of its own.

Commands print what clients and manifests said: names, paths, ids, errors of servers.
Whatever a terminal would obey, or shows in another place than where it stands, is shown by its number.
"""

from typing import TextIO


def printable(text: str) -> str:
    """The text with characters that are none to look at as JSON escapes them."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _number(character) for character in text)


def _number(character: str) -> str:
    data = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[at : at + 2].hex()}" for at in range(0, len(data), 2))


class PrintableStream:
    """A text stream that writes only what can be looked at, and ends of lines."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner

    def write(self, text: str) -> int:
        """Write; a carriage return counts only where it is all there is, as at the end of a line of progress."""
        if text in ("\n", "\r"):
            return self._inner.write(text)
        self._inner.write("\n".join(map(printable, text.split("\n"))))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def flush(self) -> None:
        """Write what the stream has kept back."""
        self._inner.flush()
