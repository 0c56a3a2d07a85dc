"""How commands ask the console of a running system: over HTTP on this machine, in JSON."""

import argparse
import http.client
import json
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

from pointsman.cli.arguments import DEFAULT_DATA, Parser
from pointsman.cli.failure import Failure
from pointsman.cli.supervising.console_place import running_console

ANSWER_WITHIN = 10.0
"""Seconds for the console to answer: a page takes a tenth of one."""
CHANGED_WITHIN = 30.0
"""Seconds for a change: five for each of its two entries in the log, three to be seen, and time for a slow disk."""
ANSWER_BYTES_MAX = 4 << 20

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


class ConsoleAnswer(NamedTuple):
    """An answer of the console."""

    status: int
    body: Json
    cookie: str
    """Cookie that the answer set, in the form in which it is sent back; empty for none."""


def console_option(parser: Parser) -> None:
    """`--data-dir` and `--url`, for commands that ask the console."""
    parser.data_option()
    parser.add_argument("--url", help="of the console (default: that of the deployment in the data directory)")


def console_url(options: argparse.Namespace) -> str:
    """The URL that `console_option` names, or that of what runs in the data directory; raises `Failure`."""
    given: Path | None = options.data_dir
    candidates = [Path(DEFAULT_DATA), Path(DEFAULT_DATA) / "demo"] if given is None else [given]
    if options.url:
        return str(options.url)
    for candidate in candidates:
        if (url := running_console(candidate)) is not None:
            return url
    found = " or ".join(str(c) for c in candidates)
    raise Failure(f"found no running console of {found}, wanted one: start it, or name it with --data-dir or --url")


def ask(url: str, path: str) -> Json:
    """The JSON that the console at `url` answers with; raises `Failure`, also where it refuses."""
    answer = get(url, path)
    if answer.status != 200:
        raise Failure(f"{url}{path} answered {answer.status}: {told_error(answer.body)}")
    return answer.body


def get(url: str, path: str) -> ConsoleAnswer:
    """The answer of the console at `url`, whatever its status; raises `Failure`."""
    return _exchange(url, "GET", path)


def post(url: str, path: str, body: Json, cookie: str) -> ConsoleAnswer:
    """The answer to a change; where this raises `Failure`, the change may have been made all the same."""
    return _exchange(url, "POST", path, json.dumps(body).encode(), cookie)


def told_error(body: Json) -> Json:
    """The error in an answer's JSON."""
    return body.get("error") if isinstance(body, dict) else body


def json_object(found: dict[str, Json], name: str) -> dict[str, Json]:
    """The object of this name; empty where there is none."""
    value = found.get(name)
    return value if isinstance(value, dict) else {}


def json_objects(found: dict[str, Json], name: str) -> list[dict[str, Json]]:
    """The list of objects of this name; empty where there is none."""
    value = found.get(name)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _exchange(url: str, method: str, path: str, body: bytes | None = None, cookie: str = "") -> ConsoleAnswer:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise Failure(f"--url: found {url!r}, wanted one such as http://127.0.0.1:8090", 2)
    headers = {"Accept": "application/json"}
    if body is not None:
        headers |= {"Content-Type": "application/json", "Cookie": cookie}
    within = ANSWER_WITHIN if body is None else CHANGED_WITHIN
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=within)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        after = "" if body is None else "; what came of the change is in the route's history"
        raise Failure(f"the console at {url} does not answer: {error}{after}") from error
    finally:
        connection.close()
    try:
        told: Json = json.loads(data)
    except ValueError as error:
        raise Failure(f"{url}{path} answered {answer.status} and no JSON: is it another program's port?") from error
    return ConsoleAnswer(answer.status, told, (answer.getheader("Set-Cookie") or "").partition(";")[0])
