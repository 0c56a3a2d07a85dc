"""What an address says of a request: its model, for bodies that do not name it, and what it asks for."""

import re
from typing import Final
from urllib.parse import parse_qs, unquote

_NAMED: Final = re.compile(r"/(?:deployments|engines)/([^/?]+)/")
"""Segment behind which the model stands: `deployments` in Azure's paths, `engines` in the first ones of OpenAI."""
_KEPT: Final = re.compile(r"/(?:responses|conversations)/([^/?]+)")
"""Segment that is the id of something kept, as in `GET /v1/responses/ID`."""
ID_CHARACTERS_MAX: Final = 128
"""Characters of an id that counts: servers give out some 40; a longer one is nobody's."""
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


def short_id(found: str) -> str:
    """The id, or nothing where it is too long for one."""
    return found if len(found) <= ID_CHARACTERS_MAX else ""


def kept_in_path(path: str) -> str:
    """The id of the response or the conversation that a path is about; empty where it is about none."""
    found = _KEPT.search(path)
    return short_id(unquote(found[1])) if found else ""
