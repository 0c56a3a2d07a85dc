"""What an address says of a request's model, for bodies that do not name it."""

import re
from typing import Final
from urllib.parse import parse_qs, unquote

_NAMED: Final = re.compile(r"/(?:deployments|engines)/([^/?]+)/")
"""Segment behind which the model stands: `deployments` in Azure's paths, `engines` in the first ones of OpenAI."""
_FIELDS_MAX: Final = 64
"""Fields of a query that are looked at."""


def model_in_path(path: str) -> str:
    """The model that a path names, as `/openai/deployments/NAME/chat/completions`; empty where it names none."""
    found = _NAMED.search(path)
    return unquote(found[1]) if found else ""


def model_in_query(address: str) -> str:
    """The model that an address asks for in its query, as `/v1/realtime?model=NAME`; empty where it asks for none."""
    _, _, query = address.partition("?")
    try:
        return parse_qs(query, max_num_fields=_FIELDS_MAX).get("model", [""])[-1]
    except ValueError:
        return ""
