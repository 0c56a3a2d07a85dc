"""How long a text may be that a client chooses.

Every decision is recorded, so what a client chooses has to fit into an entry, and is shown by pages and counted by name.
What decides (names, header values) is refused beyond the limit, because its beginning would mean something else.
What is only told (the path, the request id) is cut for the record, and goes on to the server as it came.
"""

from typing import Final

from pointsman.core.parsers.body import BadRequest

TEXT_BYTES_MAX: Final = 1024
"""Bytes in UTF-8: ten times the longest model name in use.

With it all that a client chooses of an entry has some ten KiB, far below the MiB that an entry may have.
"""
_SURELY: Final = TEXT_BYTES_MAX // 4
"""Characters that are within the limit whatever they are: none has more than 4 bytes in UTF-8."""


def check_text(what: str, value: str) -> None:
    """`BadRequest` where `value`, which the client knows as `what`, is too long."""
    if len(value) > _SURELY and (found := len(_encoded(value))) > TEXT_BYTES_MAX:
        raise BadRequest(f"{what} of {found} bytes, wanted at most {TEXT_BYTES_MAX}")


def cut_text(value: str) -> str:
    """`value`, or as many whole characters from its beginning as the limit holds."""
    if len(value) <= _SURELY:
        return value
    data = _encoded(value)
    return value if len(data) <= TEXT_BYTES_MAX else data[:TEXT_BYTES_MAX].decode("utf-8", "ignore")


def _encoded(value: str) -> bytes:
    return value.encode("utf-8", "backslashreplace")
