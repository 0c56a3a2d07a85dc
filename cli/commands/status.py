"""`pointsman status`: how a running system is, asked of its console."""

import http.client
import json
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from pointsman.cli.arguments import DEFAULT_DATA, Parser, print_json
from pointsman.cli.failure import Failure
from pointsman.cli.supervising.console_place import running_console

ANSWER_WITHIN = 10.0
ANSWER_BYTES_MAX = 4 << 20

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


def run(name: str, words: list[str]) -> int:
    """Print the state of the whole; 1 where something is wrong with it."""
    parser = Parser(
        name,
        "Show pools, routes with desired and observed weights, the log and the feed of a running system.",
        f"{name}\n{name} --data-dir .pointsman/demo --output json",
    )
    parser.data_option()
    parser.add_argument("--url", help="of the console (default: that of the deployment in the data directory)")
    parser.output_option()
    options = parser.parse_args(words)
    found = ask(options.url or _url(options.data_dir), "/api/v1")
    if not isinstance(found, dict):
        raise Failure("the console's answer is not an object: is it another program's port?")
    if options.output == "json":
        print_json(found)
    else:
        _print(found)
    strip = found.get("strip")
    return 1 if isinstance(strip, dict) and strip.get("trouble") else 0


def _url(given: Path | None) -> str:
    candidates = [Path(DEFAULT_DATA), Path(DEFAULT_DATA) / "demo"] if given is None else [given]
    for candidate in candidates:
        if (url := running_console(candidate)) is not None:
            return url
    found = " or ".join(str(c) for c in candidates)
    raise Failure(f"found no running console of {found}, wanted one: start it, or name it with --data-dir or --url")


def ask(url: str, path: str) -> Json:
    """The JSON that the console at `url` answers with; raises `Failure`."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise Failure(f"--url: found {url!r}, wanted one such as http://127.0.0.1:8090", 2)
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=ANSWER_WITHIN)
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        body = answer.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"the console at {url} does not answer: {error}") from error
    finally:
        connection.close()
    try:
        told: Json = json.loads(body)
    except ValueError as error:
        raise Failure(f"{url}{path} answered {answer.status} and no JSON: is it another program's port?") from error
    if answer.status != 200:
        said = told.get("error") if isinstance(told, dict) else told
        raise Failure(f"{url}{path} answered {answer.status}: {said}")
    return told


def _print(found: dict[str, Json]) -> None:
    strip, totals = _object(found, "strip"), _object(found, "totals")
    trouble = strip.get("trouble")
    print(f"{found.get('headline')}; {trouble or str(strip.get('behind')) + ' behind'}, log #{strip.get('position')}")
    if strip.get("verified"):
        print(f"verified {strip['verified']} decisions")
    print(f"{totals.get('rate')} requests/s, {totals.get('refused')} refused in the last minute")
    for pool in _objects(found, "pools"):
        print(
            f"pool {pool.get('namespace')}/{pool.get('name')}: {pool.get('ready')} of {pool.get('members')} ready, "
            f"{pool.get('waiting')} waiting, KV {pool.get('kv')}, {pool.get('in_flight')} in flight, "
            f"{pool.get('rate')} requests/s"
        )
    for rule in _objects(found, "routes"):
        print(f"{rule.get('name')}: {'in step' if rule.get('in_step') else 'out of step'}")
        for backend in _objects(rule, "backends"):
            desired, observed = backend.get("desired"), backend.get("observed")
            print(f"  {backend.get('name')}: weight {backend.get('weight')}, {desired} desired, {observed} observed")


def _object(found: dict[str, Json], name: str) -> dict[str, Json]:
    value = found.get(name)
    return value if isinstance(value, dict) else {}


def _objects(found: dict[str, Json], name: str) -> list[dict[str, Json]]:
    value = found.get(name)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
